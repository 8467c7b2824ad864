"""``python -m sia_runner sync RUN_DIR… [project=…] [entity=…]``: send to W&B what it does not have of these runs.

A RUN_DIR may also be a sweep: all its runs. What W&B has is asked of W&B, and what is missing is read from the run
directory: of runs that were tracked offline, whose connection broke, or that were not tracked at all. Safe to be done
again, and beside a run that is going on. Exit codes: 0 W&B has everything · 1 it does not · 2 refused."""

import importlib.util
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

_USAGE = "usage: python -m sia_runner sync RUN_DIR... [project=NAME] [entity=NAME]"
_KEYS = ("project=", "entity=")


def main(args: Sequence[str]) -> int:
    """Run the command. Return its exit code."""
    if "-h" in args or "--help" in args:
        print(f"{_USAGE}\n\n{__doc__}")
        return 0
    options = [arg for arg in args if "=" in arg]
    folders = [Path(arg).expanduser() for arg in args if arg not in options]
    if not folders or not all(arg.startswith(_KEYS) for arg in options):
        print(_USAGE, file=sys.stderr)
        return 2
    from sia_runner.config.refusals import print_refusals

    with print_refusals() as outcome:
        runs = [run for folder in folders for run in _find_runs(folder.resolve())]
        _require_wandb()
        codes = [_send_run(run, options) for run in runs]
        outcome.code = max(codes)
    return outcome.code


def _find_runs(folder: Path) -> list[Path]:
    """Return the run, or those of the sweep. Raises RunError if there is none."""
    from sia_runner.store.run_directory import RunDir, RunDirectoryError
    from sia_runner.sweep.plan import SweepDir

    sweep = SweepDir(folder)
    candidates = [folder / run.name for run in sweep.read_plan().runs] if sweep.is_sweep() else [folder]
    started = [run for run in candidates if RunDir(run).summary.is_file()]
    if not started:
        raise RunDirectoryError(f"{folder}: no run there that has finished a generation (summary.json is missing)")
    return started


def _require_wandb() -> None:
    from sia_runner.store.run_directory import RunDirectoryError

    spec = importlib.util.find_spec("wandb")
    if spec is None or spec.origin is None:
        raise RunDirectoryError("wandb is missing: pip install 'sia-runner[tracking]'")


def _send_run(run: Path, options: list[str]) -> int:
    """Send one run by a process of its own (wandb keeps state between runs of one process). Return its exit code."""
    from sia_runner.tracking.sender import ONLINE_ONLY

    command = [sys.executable, "-m", "sia_runner.tracking.sender", str(run), ONLINE_ONLY, *options]
    return subprocess.run(command, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False).returncode
