"""The command `resume` goes on with a run or a sweep that was cut."""

from argparse import Namespace

from sia_runner.commands.run import compose_and_run
from sia_runner.experiment.runner import resume_run
from sia_runner.sweep.plan import SweepDir
from sia_runner.sweep.runner import resume_sweep


def main(options: Namespace) -> int:
    """Resume the run or the sweep; return its exit code."""
    sweep = SweepDir(options.run)
    if sweep.is_sweep():
        return resume_sweep(sweep, options.overrides, compose_and_run)
    return resume_run(options.run, options.overrides)
