"""The command `sweep` shows the table of a sweep."""

import json
from argparse import Namespace

from sia_runner.sweep.plan import SweepDir
from sia_runner.sweep.table import print_table, sweep_table


def main(options: Namespace) -> int:
    """Print the table of the sweep; return the exit code."""
    sweep = SweepDir(options.sweep)
    plan = sweep.read_plan()
    if options.json:
        print(json.dumps(sweep_table(sweep, plan), indent=1, allow_nan=False))
    else:
        print_table(sweep, plan)
    return 0
