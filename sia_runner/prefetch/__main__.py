"""``python -m sia_runner.prefetch [group=choice ...] [key=value ...]``: fetch all that this run would download, now.

It serves clusters whose compute nodes have no network. Give it the overrides of the run, on a machine that has one and
shares the file system and the Python environment with the nodes. It prints one line per thing: fetched, there, MISSING
with what to do, or network: needed during the run, which nothing fetched beforehand can replace.

Exit codes: 0 all is there · 1 something is missing · 2 the configuration is refused.
"""

import sys
from collections.abc import Callable, Iterator

from sia_runner.compose.for_commands import composing
from sia_runner.config import Experiment
from sia_runner.ground.resources import cache_dir
from sia_runner.models.protocol import ModelsError
from sia_runner.prefetch.fetching import (
    MISSING,
    Got,
    environment_steps,
    fetch_data,
    fetch_image,
    fetch_policy,
    provider_needs,
    run_time_needs,
)
from sia_runner.rooms import RoomError
from sia_runner.rundir import RunError
from sia_runner.sandbox.protocol import SandboxError
from sia_runner.tasks.protocol import TaskError

_FAULTS = (RunError, RoomError, ModelsError, SandboxError, TaskError, OSError)


def main() -> int:
    """Fetch everything and print one line for each thing; return the exit code."""
    args = sys.argv[1:]
    if "-h" in args or "--help" in args:
        print(__doc__)
        return 0
    with composing(args) as (config, outcome):
        if config:
            states = [_printed(result).state for result in prefetch(config)]
            print(f"cache folder: {cache_dir()} (SIA_CACHE moves it); compute nodes have to see it under this name")
            outcome.code = 1 if MISSING in states else 0
    return outcome.code


def prefetch(config: Experiment) -> Iterator[Got]:
    """Fetch everything in turn; a failure does not keep the rest from being fetched."""
    yield _try("data", lambda: fetch_data(config))
    if config.has_policy:
        yield _try("policy", lambda: fetch_policy(config))
    for environment in environment_steps(config):
        yield _try("environment", environment)
    if hasattr(config.sandbox, "image"):
        yield _try("image", lambda: fetch_image(config))
    yield from provider_needs(config)
    yield from run_time_needs(config)


def _try(what: str, fetch: Callable[[], Got]) -> Got:
    try:
        return fetch()
    except _FAULTS as fault:
        return Got(what, MISSING, str(fault) or type(fault).__name__)


def _printed(result: Got) -> Got:
    print(f"{result.state:<8} {result.what:<14} {result.text}", flush=True)
    return result


if __name__ == "__main__":
    sys.exit(main())
