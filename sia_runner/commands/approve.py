"""The command `approve` answers the plan that a run waits with, and goes on with the run."""

from argparse import Namespace

from sia_runner.experiment.runner import resume_run
from sia_runner.experiment.sign_off import SignOffAnswer


def main(options: Namespace) -> int:
    """Answer the plan, resume the run and return its exit code."""
    return resume_run(options.run, [], SignOffAnswer(options.reject))
