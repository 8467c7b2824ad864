"""``python -m sia_runner.prefetch [group=choice ...] [key=value ...]``: fetch all that this run would download, now.

For clusters whose compute nodes have no network. Give it the overrides of the run, on a machine that has one and shares
the file system and the Python environment with the nodes. One line per thing: fetched, there, MISSING with what to do,
or network: asked for while the run goes on, which nothing fetched beforehand can replace.
Exit codes: 0 all is there · 1 something is missing · 2 the configuration is refused.
"""

import sys
from collections.abc import Callable, Iterator

from sia_runner.compose.for_commands import composing
from sia_runner.config import Experiment
from sia_runner.ground.resources import cache_dir
from sia_runner.models.protocol import ModelsError
from sia_runner.prefetch import fetching
from sia_runner.prefetch.fetching import MISSING, Got
from sia_runner.rooms import RoomError
from sia_runner.rundir import RunError
from sia_runner.sandbox.protocol import SandboxError
from sia_runner.tasks.protocol import TaskError

_FAULTS = (RunError, RoomError, ModelsError, SandboxError, TaskError, OSError)


def main() -> int:
    args = sys.argv[1:]
    if "-h" in args or "--help" in args:
        print(__doc__)
        return 0
    with composing(args) as (config, outcome):
        if config:
            states = [_shown(got).state for got in prefetch(config)]
            print(f"cache folder: {cache_dir()} (SIA_CACHE moves it); compute nodes have to see it under this name")
            outcome.code = 1 if MISSING in states else 0
    return outcome.code


def prefetch(config: Experiment) -> Iterator[Got]:
    """Everything in turn; what fails does not keep the rest from being fetched."""
    yield _try("data", lambda: fetching.data(config))
    if config.has_policy:
        yield _try("policy", lambda: fetching.policy(config))
    for environment in fetching.environments(config):
        yield _try("environment", environment)
    if hasattr(config.sandbox, "image"):
        yield _try("image", lambda: fetching.image(config))
    yield from fetching.providers(config)
    yield from fetching.later(config)


def _try(what: str, fetch: Callable[[], Got]) -> Got:
    try:
        return fetch()
    except _FAULTS as fault:
        return Got(what, MISSING, str(fault) or type(fault).__name__)


def _shown(got: Got) -> Got:
    print(f"{got.state:<8} {got.what:<14} {got.text}", flush=True)
    return got


if __name__ == "__main__":
    sys.exit(main())
