"""``python -m sia_runner.approve RUN [--reject "why"]``: answer the plan that a run waits with, and go on with the run.

A run started with ``approve=weights`` or ``approve=all`` stops before that lever is pulled (exit code 130) and leaves
its plan in ``gen_<n>/plan.md``: what, why, with which data, at what cost. Approved, the plan is carried out; rejected,
the generation ends with the reason, which the next proposal sees. Either way the run goes on in this process, and the
exit code is the run's. Refused (2): no plan waits, or the plan was changed since it was written.
"""

import sys
from pathlib import Path

from sia_runner.__main__ import end

_USAGE = 'usage: python -m sia_runner.approve RUN_DIR [--reject "why"]'


def main() -> int:
    """Answer the plan, resume the run and return its exit code."""
    args = sys.argv[1:]
    if "-h" in args or "--help" in args:
        print(f"{_USAGE}\n\n{__doc__}")
        return 0
    run, *rest = args or [""]
    rejecting = rest[:1] == ["--reject"]
    if not run or run.startswith("-") or len(rest) != (2 if rejecting else 0) or (rejecting and not rest[1].strip()):
        print(_USAGE, file=sys.stderr)
        return 2
    from sia_runner.compose.refusals import refusals

    with refusals() as outcome:
        from sia_runner.approve.approval import Answer
        from sia_runner.run.runner import resume

        folder = Path(run).expanduser().resolve()
        outcome.code = resume(folder, [], Answer(rest[1] if rejecting else None))
    return outcome.code


if __name__ == "__main__":
    end(main)
