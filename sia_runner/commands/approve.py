"""``python -m sia_runner approve RUN [--reject "why"]``: answer the plan that a run waits with, and go on with the run.

A run started with ``approve=weights`` or ``approve=all`` stops before that lever is pulled (exit code 130) and leaves
its plan in ``gen_<n>/plan.md``: what, why, with which data, at what cost. Approved, the plan is carried out; rejected,
the generation ends with the reason, which the next proposal sees. Either way the run goes on in this process, and the
exit code is the run's. Refused (2): no plan waits, or the plan was changed since it was written."""

import sys
from collections.abc import Sequence
from pathlib import Path

_USAGE = 'usage: python -m sia_runner approve RUN_DIR [--reject "why"]'


def main(args: Sequence[str]) -> int:
    """Answer the plan, resume the run and return its exit code."""
    if "-h" in args or "--help" in args:
        print(f"{_USAGE}\n\n{__doc__}")
        return 0
    run, *rest = args or [""]
    rejecting = rest[:1] == ["--reject"]
    if not run or run.startswith("-") or len(rest) != (2 if rejecting else 0) or (rejecting and not rest[1].strip()):
        print(_USAGE, file=sys.stderr)
        return 2
    from sia_runner.config.refusals import print_refusals

    with print_refusals() as outcome:
        from sia_runner.experiment.runner import resume_run
        from sia_runner.experiment.sign_off import SignOffAnswer

        folder = Path(run).expanduser().resolve()
        outcome.code = resume_run(folder, [], SignOffAnswer(rest[1] if rejecting else None))
    return outcome.code
