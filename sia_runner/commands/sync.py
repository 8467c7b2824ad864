"""The command `sync` sends to Weights & Biases what it does not have of runs."""

import importlib.util
import subprocess
import sys
from argparse import Namespace
from pathlib import Path

from sia_runner.results.index import find_runs
from sia_runner.store.run_directory import RunDir, RunDirectoryError
from sia_runner.tracking.sender import ONLINE_ONLY


def main(options: Namespace) -> int:
    """Send the runs, each by a process of its own (wandb keeps state between runs of one); return the exit code."""
    runs = [run for folder in options.folders for run in _started_runs(folder)]
    spec = importlib.util.find_spec("wandb")
    if spec is None or spec.origin is None:
        raise RunDirectoryError("wandb is missing: pip install 'sia-runner[tracking]'")
    keys = [f"{key}={value}" for key in ("project", "entity") if (value := getattr(options, key))]
    codes: list[int] = []
    for run in runs:
        command = [sys.executable, "-m", "sia_runner.tracking.sender", str(run), ONLINE_ONLY, *keys]
        process = subprocess.run(command, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)
        codes.append(process.returncode)
    return max(codes)


def _started_runs(folder: Path) -> list[Path]:
    started = [folder / run for run in find_runs(folder) if RunDir(folder / run).summary.is_file()]
    if not started:
        raise RunDirectoryError(f"{folder}: no run there that has finished a generation (summary.json is missing)")
    return started
