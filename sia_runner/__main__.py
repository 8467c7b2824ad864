"""The command line, ``python -m sia_runner COMMAND``; nothing heavy is imported before the arguments are right."""

import os
import sys
from collections.abc import Sequence
from importlib import import_module

from sia_runner.commands.arguments import UsageError, parse_command


def main(args: Sequence[str] | None = None) -> int:
    """Carry out the command that the first argument names, by default `run`; return the exit code."""
    try:
        name, options = parse_command(sys.argv[1:] if args is None else list(args))
    except UsageError as error:
        print(f"refused: {error}", file=sys.stderr)
        return 2
    except SystemExit:  # the page of --help was printed
        return 0
    from sia_runner.config.refusals import print_refusals
    from sia_runner.system import postpone_garbage_collection, resume_garbage_collection

    if name == "run":
        postpone_garbage_collection()
    try:
        with print_refusals() as outcome:
            outcome.code = import_module(f"sia_runner.commands.{name}").main(options)
    finally:
        resume_garbage_collection()
    return outcome.code


def command() -> None:
    """Run main() as the console script and exit with its code."""
    try:
        code = main()
        sys.stdout.flush()
    except BrokenPipeError:  # whoever read our output has seen enough, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # so that the last flush is quiet too
        code = 1
    except KeyboardInterrupt:  # of a command that has nothing to resume
        print("interrupted", file=sys.stderr)
        code = 130
    if code == 130:  # threads may still wait for their sandboxes; these end with this process
        sys.stdout.flush()
        os._exit(code)
    sys.exit(code)


if __name__ == "__main__":
    command()
