"""The command line ``python -m sia_runner``: compose, check and run an experiment, or resume a run."""

import os
import sys
from collections.abc import Callable
from pathlib import Path


def main() -> int:
    """Show the help, resume, or compose and run; return the exit code."""
    args = sys.argv[1:]
    if "--help" in args or "-h" in args:
        from sia_runner.compose.help import page

        print(page(args))
        return 0
    resumed = [arg for arg in args if arg.startswith("resume=")]
    if resumed:
        return _resume(Path(resumed[0].removeprefix("resume=")), [arg for arg in args if arg not in resumed])
    from sia_runner.compose.hydra_app import launch

    return launch()


def _resume(folder: Path, overrides: list[str]) -> int:
    from sia_runner.compose.refusals import refusals
    from sia_runner.sweep.plan import SweepDir

    folder = folder.expanduser().resolve()
    with refusals() as outcome:
        if SweepDir(folder).is_sweep():
            from sia_runner.sweep.conduct import resume_sweep

            outcome.code = resume_sweep(SweepDir(folder), overrides)
        else:
            from sia_runner.run.runner import resume

            outcome.code = resume(folder, overrides)
    return outcome.code


def command() -> None:
    """Run main() as the console script and exit with its code."""
    end(main)


def end(carry_out: Callable[[], int]) -> None:
    """Leave this process with the exit code of a command that carries out a run."""
    try:
        code = carry_out()
    except KeyboardInterrupt:  # before there was anything to resume
        print("interrupted", file=sys.stderr)
        code = 130
    if code == 130:  # threads may still wait for their sandboxes; these end with this process
        sys.stdout.flush()
        os._exit(code)
    sys.exit(code)


if __name__ == "__main__":
    command()
