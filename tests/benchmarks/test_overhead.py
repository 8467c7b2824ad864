"""The overhead benchmark runs, and its figures are what they claim to be."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "overhead.py"
GATED = ", task=smoke with its gate"
FIGURES = (
    "launch to first target agent (s)",
    "between consecutive target agents (s)",
    "own work per generation (s)",
    f"launch to first target agent{GATED} (s)",
    f"between consecutive target agents{GATED} (s)",
    f"own work per generation{GATED} (s)",
    "--help (s)",
    *(
        f"{process} at 8 MiB of output, {what} (MB)"
        for process in ("main process", "supervisor", "all own processes together")
        for what in ("lines", "one line")
    ),
)


def benchmark(cache: Path, *args: str) -> "subprocess.CompletedProcess[str]":
    env = {**os.environ, "PYTHONPATH": str(BENCHMARK.parents[1]), "SIA_CACHE": str(cache)}
    command = [sys.executable, str(BENCHMARK), *args]
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=120, check=False)


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, list[float]]]:
    """What a short run prints, and its figures."""
    folder = tmp_path_factory.mktemp("overhead")
    report = folder / "report.json"
    ran = benchmark(folder / "cache", "--only", "ours", "--repeats", "1", "--output-mib", "8", "--json", str(report))
    assert ran.returncode == 0, ran.stderr
    (figures,) = json.loads(report.read_text())["figures"].values()
    return ran.stdout, figures


@pytest.mark.slow
def test_every_figure_is_in_the_table_and_in_the_report(measured: tuple[str, dict[str, list[float]]]) -> None:
    printed, figures = measured
    assert sorted(figures) == sorted(FIGURES)
    assert all(f"| {name} " in printed for name in FIGURES)


@pytest.mark.slow
def test_gaps_add_up_to_the_own_work_of_each_generation(measured: tuple[str, dict[str, list[float]]]) -> None:
    _, figures = measured
    for which, agents in (("", 1), (GATED, 2)):  # target agents per generation
        gaps = figures[f"between consecutive target agents{which} (s)"]
        sums = figures[f"own work per generation{which} (s)"]
        assert all(gap > 0 for gap in gaps)
        assert len(sums) == 2  # three generations; the first one's own work is the launch
        assert len(gaps) == 3 * agents - 1
        assert sum(sums) == pytest.approx(sum(gaps[agents - 1 :]))


def test_a_runner_that_kept_the_output_in_memory_would_be_seen() -> None:
    hog = "import time; kept = bytearray(200 << 20); time.sleep(0.3)"
    sys.path.insert(0, str(BENCHMARK.parent))
    try:
        from _watch import watch  # pyright: ignore[reportMissingImports]
    finally:
        sys.path.pop(0)
    watched = watch([sys.executable, "-c", hog], Path("/"), os.environ, Path(os.devnull), lambda pid: [("main", pid)])
    assert watched.peaks["main"] == watched.peaks["all own processes together"] > 200


def test_nonsense_is_refused(tmp_path: Path) -> None:
    assert benchmark(tmp_path, "--repeats", "0").returncode == 2
