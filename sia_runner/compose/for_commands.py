"""Composition of a checked experiment, as a run does it, for commands that start no run: doctor, estimate, prepare."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sia_runner.compose.help import choices, config_folders
from sia_runner.compose.refusals import REFUSED, Outcome, refusals
from sia_runner.compose.resolvers import register
from sia_runner.config import Experiment, check
from sia_runner.ground.resources import bundled


@contextmanager
def composing(args: Sequence[str]) -> Iterator[tuple[Experiment | None, Outcome]]:
    """Yield the checked experiment and the exit code, as in ``with composing(sys.argv[1:]) as (config, outcome):``.

    If the configuration is refused, the experiment is None, the code is 2 and the reason was printed to stderr.
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
    """Return the composed but unchecked configuration; None if Hydra refused it and the reason is on stderr."""
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
    shipped, *more = config_folders(args)
    assert shipped == bundled("conf")  # noqa: S101 - `config_folders` begins with the bundled one
    overrides = _without_folders(args)
    if more:
        overrides.append(f"hydra.searchpath=[{','.join(f'file://{folder.resolve()}' for folder in more)}]")
    with initialize_config_dir(version_base="1.3", config_dir=str(shipped)):
        plain: Any = OmegaConf.to_container(compose("config", overrides), resolve=True, throw_on_missing=True)
    absolute(plain)
    return plain


def _without_folders(args: Sequence[str]) -> list[str]:
    """Return the overrides: all arguments except --config-dir and its value."""
    overrides: list[str] = []
    skip = False
    for arg in args:
        name, equals, _ = arg.partition("=")
        if skip:
            skip = False
        elif name in ("--config-dir", "-cd"):
            skip = not equals
        else:
            overrides.append(arg)
    return overrides


def say_refused(error: Exception) -> int:
    """Print what Hydra or OmegaConf refused as one line on stderr; return exit code 2."""
    from sia_runner.compose.problems import explain_hydra

    print(f"refused: {explain_hydra(error, _known_keys(), _groups())}", file=sys.stderr)
    return REFUSED


def absolute(composed: Any) -> None:
    """Make the configuration's relative paths absolute, in place, so that a resume from another folder works."""
    target, proposer = composed.get("target_agent"), composed.get("meta_agent")
    for part in (composed.get("task"), proposer):
        _resolve(part, "dir")
    for key in ("prepared", "reference"):
        _resolve(composed.get("task"), key)
    for part in (composed.get("provider"), _part(proposer, "provider"), _part(target, "provider")):
        _resolve(part, "key_file")


def _part(tree: Any, key: str) -> Any:
    return tree.get(key) if isinstance(tree, dict) else None


def _resolve(part: Any, key: str) -> None:
    path = _part(part, key)
    if isinstance(path, str):
        part[key] = str(Path(path).expanduser().resolve())


def _groups() -> dict[str, list[str]]:
    return {group: list(descriptions) for group, descriptions in choices(config_folders(sys.argv[1:])).items()}


def _known_keys() -> list[str]:
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    GlobalHydra.instance().clear()
    with initialize_config_dir(version_base="1.3", config_dir=str(bundled("conf"))):
        return _dotted(compose("config"), "")


def _dotted(tree: Any, prefix: str) -> list[str]:
    keys: list[str] = []
    for key in tree:
        name = f"{prefix}{key}"
        keys.append(name)
        child = tree._get_node(key)
        if hasattr(child, "keys"):
            keys += _dotted(child, f"{name}.")
    return keys
