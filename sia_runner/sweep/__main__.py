"""``python -m sia_runner.sweep SWEEP_DIR [--json]``: the table of a sweep, finished or not; starts nothing.

A row for each run: how it ended, val and test of its best generation with their intervals, cost, seconds; then the mean
over seeds for each task, mode and arm. The same, as it was when its command ended, is in sweep.json and sweep.csv.
"""

import json
import sys
from pathlib import Path

from sia_runner.compose.refusals import REFUSED, refusals
from sia_runner.rundir import RunError
from sia_runner.sweep.plan import SweepDir
from sia_runner.sweep.table import show, table


def main() -> int:
    """Print the table of the sweep; return the exit code."""
    args = sys.argv[1:]
    folders = [arg for arg in args if not arg.startswith("-")]
    if {"-h", "--help"} & set(args) or len(folders) != 1:
        print(__doc__)
        return 0 if args else REFUSED
    with refusals() as outcome:
        unknown = next((arg for arg in args if arg.startswith("-") and arg != "--json"), None)
        if unknown:
            raise RunError(f"{unknown}: no such option; allowed: --json")
        sweep = SweepDir(Path(folders[0]).expanduser().resolve())
        plan = sweep.read_plan()
        if "--json" in args:
            print(json.dumps(table(sweep, plan), indent=1, allow_nan=False))
        else:
            show(sweep, plan)
        outcome.code = 0
    return outcome.code


if __name__ == "__main__":
    sys.exit(main())
