"""``python -m sia_runner.prepare task=NAME [key=value ...]``: fetch or make a task's data now.

For machines whose compute nodes have no network: run it once where there is one; the data lands in the cache.
"""

import sys
from pathlib import Path

from sia_runner.refusals import refusals
from sia_runner.resources import bundled, cache_dir


def main() -> int:
    args = sys.argv[1:]
    if not args or "-h" in args or "--help" in args:
        print(f"usage: python -m sia_runner.prepare task=NAME [key=value ...]\n\n{__doc__}")
        return 0 if args else 2
    return prepare(args)


def prepare(overrides: list[str]) -> int:
    from hydra import compose, initialize_config_dir
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    from sia_runner.hydra_app import say_refused

    try:
        with initialize_config_dir(version_base="1.3", config_dir=str(Path(bundled("conf")))):
            plain = OmegaConf.to_container(compose("config", overrides), resolve=True, throw_on_missing=True)
    except (HydraException, OmegaConfBaseException) as error:
        return say_refused(error)
    with refusals(plain) as outcome:
        from sia_runner.config import check
        from sia_runner.rooms import rooms

        config = check(plain)  # type: ignore[arg-type]
        rooms(config).task.prepare(lambda text: print(text, flush=True))
        print(f"task {config.task.name} is prepared in {cache_dir()}")
        outcome.code = 0
    return outcome.code


if __name__ == "__main__":
    sys.exit(main())
