"""Composes an experiment as a run would, for commands that start none: doctor, estimate, prepare."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from sia_runner.compose.help import config_folders
from sia_runner.compose.hydra_app import absolute, say_refused
from sia_runner.compose.refusals import Outcome, refusals
from sia_runner.compose.resolvers import register
from sia_runner.config import Experiment, check
from sia_runner.ground.resources import bundled


@contextmanager
def composing(args: Sequence[str]) -> Iterator[tuple[Experiment | None, Outcome]]:
    """``with composing(sys.argv[1:]) as (config, outcome):`` the checked experiment and the exit code to be.

    No experiment where the configuration is refused; that was then said on stderr, and the code is 2.
    """
    plain = composed(args)
    if plain is None:
        yield None, Outcome()
        return
    config: Experiment | None = None
    with refusals(plain) as outcome:
        config = check(plain)
    if config is None:
        yield None, outcome
        return
    with refusals(plain) as outcome:
        yield config, outcome


def composed(args: Sequence[str]) -> dict[str, Any] | None:
    """What Hydra makes of the overrides, unchecked; None where it refuses them, which was then said on stderr."""
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    try:
        return _composed(args)
    except (HydraException, OmegaConfBaseException) as error:
        say_refused(error)
        return None


def _composed(args: Sequence[str]) -> dict[str, Any]:
    from hydra import compose, initialize_config_dir
    from omegaconf import OmegaConf

    register()
    own, *more = config_folders(args)
    assert own == bundled("conf")  # noqa: S101 - `config_folders` begins with ours
    overrides = _without_folders(args)
    if more:
        overrides.append(f"hydra.searchpath=[{','.join(f'file://{folder.resolve()}' for folder in more)}]")
    with initialize_config_dir(version_base="1.3", config_dir=str(own)):
        plain: Any = OmegaConf.to_container(compose("config", overrides), resolve=True, throw_on_missing=True)
    absolute(plain)
    return plain


def _without_folders(args: Sequence[str]) -> list[str]:
    """The overrides: all but --config-dir and its value."""
    overrides: list[str] = []
    skip = False
    for arg in args:
        name, given, _ = arg.partition("=")
        if skip:
            skip = False
        elif name in ("--config-dir", "-cd"):
            skip = not given
        else:
            overrides.append(arg)
    return overrides
