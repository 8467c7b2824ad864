"""The overhead benchmark runs, and its figures are what they claim to be."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "overhead.py"
FIGURES = (
    "launch to first target agent (s)",
    "between consecutive target agents (s)",
    "own work per generation (s)",
    "--help (s)",
    "main process at 8 MiB of output, lines (MB)",
    "main process at 8 MiB of output, one line (MB)",
    "supervisor at 8 MiB of output, lines (MB)",
    "supervisor at 8 MiB of output, one line (MB)",
)


def benchmark(*args: str) -> "subprocess.CompletedProcess[str]":
    env = {**os.environ, "PYTHONPATH": str(BENCHMARK.parents[1])}
    command = [sys.executable, str(BENCHMARK), *args]
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=120, check=False)


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, list[float]]]:
    """What a short run prints, and its figures."""
    report = tmp_path_factory.mktemp("overhead") / "report.json"
    ran = benchmark("--only", "ours", "--repeats", "1", "--output-mib", "8", "--json", str(report))
    assert ran.returncode == 0, ran.stderr
    (figures,) = json.loads(report.read_text())["figures"].values()
    return ran.stdout, figures


def test_every_figure_is_in_the_table_and_in_the_report(measured: tuple[str, dict[str, list[float]]]) -> None:
    printed, figures = measured
    assert sorted(figures) == sorted(FIGURES)
    assert all(f"| {name} " in printed for name in FIGURES)


def test_gaps_add_up_to_the_own_work_of_a_generation(measured: tuple[str, dict[str, list[float]]]) -> None:
    _, figures = measured
    gaps, sums = figures["between consecutive target agents (s)"], figures["own work per generation (s)"]
    assert len(sums) == 3  # four generations; the first one's work is in the launch
    assert all(gap > 0 for gap in gaps)
    assert sum(sums) <= sum(gaps) + 1e-6


def test_a_runner_that_kept_the_output_in_memory_would_be_seen() -> None:
    hog = "import time; kept = bytearray(200 << 20); time.sleep(0.3)"
    sys.path.insert(0, str(BENCHMARK.parent))
    try:
        from _watch import watch  # pyright: ignore[reportMissingImports]
    finally:
        sys.path.pop(0)
    watched = watch([sys.executable, "-c", hog], Path("/"), os.environ, Path(os.devnull), lambda pid: {"main": pid})
    assert watched.peaks["main"] > 200


def test_nonsense_is_refused() -> None:
    assert benchmark("--repeats", "0").returncode == 2
