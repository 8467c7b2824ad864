"""Hydra's part: compose, then hand over. Every refusal becomes one line and exit code 2."""

import os
import sys
from pathlib import Path
from typing import Any

from sia_runner.compose.help import choices, config_folders
from sia_runner.compose.refusals import REFUSED, refusals
from sia_runner.compose.resolvers import register
from sia_runner.ground.resources import bundled


def launch() -> int:
    """Compose from sys.argv and run, or carry out a sweep. Returns the exit code: of a sweep the worst one."""
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra raises instead of printing a traceback of its own
    import hydra
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    register()
    if not _may_set_the_mode(sys.argv[1:]):
        from hydra._internal.hydra import Hydra

        Hydra.get_mode = lambda *_, **__: None  # what Hydra finds, too, after composing all a first time only for that
    codes = [0]

    @hydra.main(version_base="1.3", config_path=str(bundled("conf")), config_name="config")
    def sia_runner(composed: Any) -> int:
        codes.append(_one(composed))
        return codes[-1]

    from sia_runner.rundir import RunError

    try:
        sia_runner()  # pyright: ignore[reportCallIssue] - Hydra gives the argument
    except (HydraException, OmegaConfBaseException) as error:
        return say_refused(error)
    except RunError as error:  # of a sweep: those of a run are answered where it is carried out
        print(f"refused: {error}", file=sys.stderr)
        return REFUSED
    except SystemExit as ended:  # a sweep's, with its worst exit code; or Hydra's, which refused an option
        return ended.code if isinstance(ended.code, int) else REFUSED
    return codes[-1]


def _may_set_the_mode(arguments: list[str]) -> bool:
    """Whether these can set hydra.mode, by which a YAML asks for a sweep without -m: none of our groups but `sweeps`
    does, and an experiment or a folder of the user's own may."""
    plain = [one for one in arguments if not one.startswith("hydra.run.dir=")]
    return any(one.startswith(("-", "+", "~", "hydra", "experiment")) for one in plain)


def say_refused(error: Exception) -> int:
    """What Hydra or OmegaConf refused, as one line on stderr."""
    from sia_runner.compose.problems import explain_hydra

    print(f"refused: {explain_hydra(error, _known_keys(), _groups())}", file=sys.stderr)
    return REFUSED


def _one(composed: Any) -> int:
    """One experiment, as Hydra composed it."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    if HydraConfig.get().mode == RunMode.MULTIRUN:
        from sia_runner.sweep.compose import here

        return here(composed, HydraConfig.get())
    folder = Path(HydraConfig.get().runtime.output_dir)
    code = _checked_and_run(composed, folder, list(HydraConfig.get().overrides.task))
    if code == REFUSED and folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()  # Hydra made it before we could look; nothing was started
    return code


def _checked_and_run(composed: Any, folder: Path, overrides: list[str]) -> int:
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        plain: Any = OmegaConf.to_container(composed, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        return say_refused(error)
    with refusals(plain) as outcome:
        from sia_runner.config import check
        from sia_runner.run.runner import start

        absolute(plain)
        outcome.code = start(check(plain), folder, overrides)
    return outcome.code


def absolute(composed: Any) -> None:
    """Paths given relative to where the command was typed stay valid for a resume from elsewhere."""
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
    return {group: list(of_group) for group, of_group in choices(config_folders(sys.argv[1:])).items()}


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
