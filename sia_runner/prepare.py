"""``python -m sia_runner.prepare task=NAME [key=value ...]``: fetch or make a task's data now.

Use it where compute nodes have no network: run it once where there is one; the data lands in the cache.
"""

import sys

from sia_runner.compose.for_commands import composed
from sia_runner.compose.refusals import REFUSED, refusals
from sia_runner.config import check_task
from sia_runner.ground.resources import cache_dir
from sia_runner.rooms import locate
from sia_runner.tasks.protocol import Task


def main() -> int:
    """Prepare the task that the arguments name; return the exit code."""
    args = sys.argv[1:]
    if not args or "-h" in args or "--help" in args:
        print(f"usage: python -m sia_runner.prepare task=NAME [key=value ...]\n\n{__doc__}")
        return 0 if args else 2
    return prepare(args)


def prepare(args: list[str]) -> int:
    """Check the task alone and prepare its data; return the exit code.

    No key, provider or sandbox is needed for that.
    """
    plain = composed(args)
    if plain is None:
        return REFUSED
    with refusals(plain) as outcome:
        spec = check_task(plain)
        task: Task = locate(spec.target)(spec, plain["split_seed"], cache_dir())
        task.prepare(lambda text: print(text, flush=True))
        print(f"task {spec.name} is prepared in {cache_dir()}")
        outcome.code = 0
    return outcome.code


if __name__ == "__main__":
    sys.exit(main())
