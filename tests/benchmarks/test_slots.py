"""The benchmark of evaluation slots runs, and its figures are what they claim to be."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("submitit", reason="the pool's workers are submitit jobs: sia-runner[slurm]")

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "slots.py"


@pytest.mark.slow
def test_every_way_evaluates_all_candidates_in_as_many_slots(tmp_path):
    args = ["--candidates", "6", "--seconds", "0.2", "--slots", "2", "--folder", str(tmp_path)]
    command = [sys.executable, str(BENCHMARK), *args, "--json", str(tmp_path / "figures.json")]
    env = {**os.environ, "PYTHONPATH": str(BENCHMARK.parents[1])}
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120, env=env)
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "figures.json").read_text())
    assert len(report["figures"]) == 3
    for name, figures in report["figures"].items():
        assert name in done.stdout
        assert figures["most at work at once"] <= 2
        assert figures["wall time (s)"] >= 6 * 0.2 / 2
        idle = 100 * (1 - 6 * 0.2 / (2 * figures["wall time (s)"]))
        assert figures["idle share of the slots (%)"] == pytest.approx(idle, abs=3)
        assert 0 < figures["CPU of the driver per candidate (ms)"] < 1000
