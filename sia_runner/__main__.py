"""The command line: ``sia-runner COMMAND``, which is ``python -m sia_runner COMMAND``.

Nothing heavy is imported before a command is known, and each command imports what it needs when it works."""

import os
import sys
from collections.abc import Sequence

COMMANDS = {
    "run": "compose, check and carry out an experiment (the default: its arguments are enough)",
    "resume": "go on with a run or a sweep that was cut",
    "sweep": "the table of a sweep",
    "report": "SIA-H against SIA-W+H: one HTML page, LaTeX, Markdown, CSV",
    "compare": "runs side by side on the same test questions",
    "web": "the live dashboard of a folder of runs",
    "verify": "recompute every score of a run and find any edit",
    "export": "the best harness of a run as a folder that runs without us",
    "doctor": "would this experiment run, here and now?",
    "estimate": "what may this experiment cost?",
    "tasks": "list, make and check tasks",
    "adapters": "list, show, check, merge and export trained adapters",
    "approve": "answer the plan of a run that waits for a person",
    "prepare": "fetch or make the data of a task",
    "prefetch": "fetch all that an experiment needs, for nodes without a network",
    "sync": "send runs to Weights & Biases",
    "convert": "sia-agent's profiles and providers as choices of ours",
}


def main(args: Sequence[str] | None = None) -> int:
    """Carry out the command that the first argument names, by default `run`; return the exit code."""
    from importlib import import_module

    args = sys.argv[1:] if args is None else list(args)
    name = args[0] if args and args[0] in COMMANDS else "run"
    rest = args[1:] if args and args[0] == name else args
    module = "run" if name == "resume" else name
    if name == "resume":
        rest = ["resume=" + rest[0], *rest[1:]] if rest and not rest[0].startswith("-") else ["resume=", *rest]
    return import_module(f"sia_runner.commands.{module}").main(rest)


def command() -> None:
    """Run main() as the console script and exit with its code."""
    try:
        code = main()
    except KeyboardInterrupt:  # before there was anything to resume
        print("interrupted", file=sys.stderr)
        code = 130
    if code == 130:  # threads may still wait for their sandboxes; these end with this process
        sys.stdout.flush()
        os._exit(code)
    sys.exit(code)


if __name__ == "__main__":
    command()
