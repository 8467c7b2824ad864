"""``python -m sia_runner sweep SWEEP_DIR [--json]``: the table of a sweep, finished or not; starts nothing.

A row for each run: how it ended, val and test of its best generation with their intervals, cost, seconds; then the mean
over seeds for each task, mode and arm. The same, as it was when its command ended, is in sweep.json and sweep.csv."""

import json
from collections.abc import Sequence
from pathlib import Path

from sia_runner.config.refusals import EXIT_REFUSED, print_refusals
from sia_runner.store.run_directory import RunDirectoryError
from sia_runner.sweep.plan import SweepDir
from sia_runner.sweep.table import print_table, sweep_table


def main(args: Sequence[str]) -> int:
    """Print the table of the sweep; return the exit code."""
    folders = [arg for arg in args if not arg.startswith("-")]
    if {"-h", "--help"} & set(args) or len(folders) != 1:
        print(__doc__)
        return 0 if args else EXIT_REFUSED
    with print_refusals() as outcome:
        unknown = next((arg for arg in args if arg.startswith("-") and arg != "--json"), None)
        if unknown:
            raise RunDirectoryError(f"{unknown}: no such option; allowed: --json")
        sweep = SweepDir(Path(folders[0]).expanduser().resolve())
        plan = sweep.read_plan()
        if "--json" in args:
            print(json.dumps(sweep_table(sweep, plan), indent=1, allow_nan=False))
        else:
            print_table(sweep, plan)
        outcome.code = 0
    return outcome.code
