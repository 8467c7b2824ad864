"""Composition turns YAML and the command line into a checked experiment, or explains why it is refused.

A run and the commands that start none (doctor, estimate, prepare) compose in the same way. An explanation is one line
for each error, with key, value, allowed values and nearest name.
"""

import difflib
import re
import sys
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from sia_runner.config.base import optional_keys
from sia_runner.config.experiment import Experiment, check_experiment
from sia_runner.config.help import group_choices, split_config_dirs
from sia_runner.config.migration import renamed_key
from sia_runner.config.refusals import EXIT_REFUSED, CommandOutcome, nearest_choice, print_refusals
from sia_runner.errors import RunnerError
from sia_runner.records import Json, as_object
from sia_runner.system import bundled_folder


def register_resolvers() -> None:
    """Register ``${preset:KEY}`` (conf/trainer/_presets.yaml). Call it before Hydra composes."""
    from omegaconf import OmegaConf

    OmegaConf.register_new_resolver("preset", _resolve_preset, replace=True)
    OmegaConf.register_new_resolver("by_base", _refuse_by_base, replace=True)  # of an earlier version


def _resolve_preset(key: str, *, _root_: Any) -> Any:
    from omegaconf import OmegaConf

    base = OmegaConf.select(_root_, "target_agent.policy.base", default="tiny")
    presets: Any = OmegaConf.load(bundled_folder("conf") / "trainer" / "_presets.yaml")
    presets._set_parent(_root_)  # a preset may take values from the experiment
    backend = OmegaConf.select(_root_, "target_agent.policy.backend", default="peft")
    if backend == "tinker" and key in presets["tinker"]:
        return presets["tinker"][key]
    return presets[base if base in ("tiny", "smollm2") else "pretrained"][key]


def _refuse_by_base(*_: Any) -> None:
    raise ValueError("${by_base:A,B} is gone; write the value, or ${preset:KEY} with a key of trainer/_presets.yaml")


@contextmanager
def composed_experiment(args: Sequence[str]) -> Generator[tuple[Experiment | None, CommandOutcome]]:
    """Yield the checked experiment and the exit code that the command sets.

    If the configuration is refused, the experiment is None, the code is 2 and the reason was printed to stderr.
    """
    config, plain = None, compose_overrides(args)
    if plain is not None:
        with print_refusals(plain):
            config = check_experiment(plain)
    with print_refusals(plain) as outcome:
        yield config, outcome


def compose_overrides(args: Sequence[str]) -> dict[str, Any] | None:
    """Return the composed but unchecked configuration; None if Hydra refused it and the reason is on stderr."""
    with print_refusals():
        return compose_plain(args)
    return None


def compose_plain(args: Sequence[str]) -> dict[str, Any]:
    """Return the composed but unchecked configuration. Raises CompositionError."""
    from hydra import compose, initialize_config_dir
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    register_resolvers()
    (shipped, *more), overrides = split_config_dirs(quote_overrides(args))
    if more:
        folders = (quote_text(f"file://{folder.resolve()}") for folder in more)
        overrides.append(f"hydra.searchpath=[{','.join(folders)}]")
    try:
        with initialize_config_dir(version_base="1.3", config_dir=str(shipped)):
            composed = compose("config", overrides, return_hydra_config=True)
            runtime = composed.hydra.runtime
            experiment = OmegaConf.masked_copy(composed, [str(key) for key in composed if key != "hydra"])
            plain: Any = OmegaConf.to_container(experiment, resolve=True, throw_on_missing=True)
    except (HydraException, OmegaConfBaseException) as error:
        raise CompositionError(_explain_with_choices(error, args)) from error
    make_paths_absolute(plain, runtime)
    return plain


class CompositionError(RunnerError):
    """Hydra refused the configuration; the message is one line for the user (exit code 2)."""


def quote_text(text: str) -> str:
    """Return the text as a value of an override: quoted, for Hydra's grammar takes few characters as they are."""
    from hydra.core.override_parser.types import Quote, QuotedString

    return QuotedString(text, Quote.single).with_quotes()


def quote_overrides(args: Sequence[str]) -> list[str]:
    """Return the arguments with those values quoted that Hydra's grammar cannot read, or would read as no path.

    Raises CompositionError for a choice of a group that the grammar reads as null, a bool or a number.
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    parser, choices, quoted = OverridesParser.create(), group_choices(split_config_dirs(args)[0]), list[str]()
    for arg in args:
        key, _, value = arg.partition("=")
        name = key.lstrip("+")
        if not value or not re.fullmatch(r"[\w./@]+", name):  # an option, a deletion
            quoted.append(arg)
            continue
        try:
            override = parser.parse_override(arg)
            unreadable, choice = False, "" if override.is_sweep_override() else override.value()
        except HydraException:
            unreadable, choice = True, ""
        if name in choices and isinstance(choice, bool | int | float | None):
            raise CompositionError(f"{arg}: no such choice{nearest_choice(value, choices[name])}")
        is_path = name in _RUN_FOLDERS or (name in _PATH_KEYS and Path(value).expanduser().exists())
        if re.fullmatch(r"(['\"]).*\1", value) or not (unreadable or is_path):
            quoted.append(arg)
        else:
            path = str(Path(value).expanduser()) if name in _RUN_FOLDERS else value
            quoted.append(f"{key}={quote_text(path)}")
    return quoted


def print_hydra_refusal(error: Exception) -> int:
    """Print what Hydra or OmegaConf refused as one line on stderr; return exit code 2."""
    print(f"refused: {_explain_with_choices(error, sys.argv[1:])}", file=sys.stderr)
    return EXIT_REFUSED


def _explain_with_choices(error: Exception, args: Sequence[str]) -> str:
    return explain_hydra_error(error, [*_default_keys(), *group_choices(split_config_dirs(args)[0])])


_PATH_KEYS = (
    *("task.dir", "task.file", "task.prepared", "task.reference", "meta_agent.dir"),
    *("provider.key_file", "meta_agent.provider.key_file", "target_agent.provider.key_file"),
    *("target_agent.policy.tinker.key_file", "control.like"),
)
_RUN_FOLDERS = ("hydra.run.dir", "hydra.sweep.dir")


def make_paths_absolute(composed: Any, runtime: Any) -> None:
    """Make the configuration's relative paths absolute, in place, so that a resume from another folder works.

    A task's `dir` is relative to its own YAML if task.md is there, so that its folder may move; `runtime` is Hydra's.
    """
    task = as_object(composed.get("task"))
    for source in runtime.config_sources if isinstance(task.get("dir"), str) else ():
        folder = (Path(source.path) / "task" / task["dir"]).resolve()
        if source.schema == "file" and (folder / "task.md").is_file():
            yaml_file = Path(source.path) / "task" / f"{runtime.choices.get('task')}.yaml"
            task["dir"] = str(folder) if yaml_file.is_file() else task["dir"]
    for sections, _, key in (dotted.rpartition(".") for dotted in _PATH_KEYS):
        part = _section_at(composed, sections.split("."))
        if isinstance(part.get(key), str):
            part[key] = str(Path(part[key]).expanduser().resolve())


def _section_at(tree: Any, path: Iterable[str]) -> Json:
    """Return the section at that path; an empty one where there is none."""
    for step in path:
        tree = as_object(tree).get(step)
    return as_object(tree)


def _default_keys() -> Iterator[str]:
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra
    from omegaconf import OmegaConf

    GlobalHydra.instance().clear()
    with initialize_config_dir(version_base="1.3", config_dir=str(bundled_folder("conf"))):
        return _dotted(OmegaConf.to_container(compose("config")))


def _dotted(tree: Any, prefix: str = "") -> Iterator[str]:
    for key, value in tree.items():
        yield f"{prefix}{key}"
        if isinstance(value, dict):
            yield from _dotted(value, f"{prefix}{key}.")


def explain_validation_error(error: ValidationError, composed: Mapping[str, Any]) -> list[str]:
    """Return a line per error that the schema found."""
    return list(dict.fromkeys(_error_line(fault, composed) for fault in error.errors()))


def _error_line(fault: Any, composed: Mapping[str, Any]) -> str:
    path = _key_path(fault["loc"], composed)
    key = ".".join(path)
    message = fault["msg"].removeprefix("Value error, ")
    if fault["type"] == "extra_forbidden":
        if (new := renamed_key(key, composed)) != key:
            return f"{key}={_shorten(fault['input'])}: renamed; use {new}"
        siblings = [str(name) for name in _section_at(composed, path[:-1]) if str(name) != path[-1]]
        return f"{key}={_shorten(fault['input'])}: no such key{nearest_choice(path[-1], siblings)}"
    if fault["type"] == "missing":
        return f"{key}: missing; give it"
    if fault["type"] == "value_error":
        return message if not key else f"{key}: {message}"
    hint = ""
    if fault["type"] == "string_type" and isinstance(fault["input"], bool | int | float):
        hint = "; quote it in the YAML, which reads words like NO and 1e5 without quotes as something else"
    return f"{key}={_shorten(fault['input'])}: {message[0].lower()}{message[1:]}{hint}"


def _key_path(location: Iterable[Any], composed: Mapping[str, Any]) -> list[str]:
    """Return the steps of the key, without pydantic's names of union branches, which are not keys."""
    path: list[str] = []
    tree: Any = composed
    for step in location:
        section = as_object(tree)
        branch = isinstance(step, str) and ("." in step or step[:1].isupper() or step == section.get("kind"))
        if branch and step not in section:
            continue
        path.append(str(step))
        tree = section.get(step)
    return path


def _shorten(value: Any) -> str:
    text = "null" if value is None else str(value)
    return text if len(text) <= 60 else text[:57] + "..."


_OTHER_WORDS = {"generations": "max_gen", "num_generations": "max_gen", "iterations": "max_gen"}


def _nearest_key(name: str, names: Sequence[str]) -> str:
    """Return the key that was probably meant; empty where none is near. A key without a dot is near to such keys."""
    if name in _OTHER_WORDS:
        return _OTHER_WORDS[name]
    if "." not in name:  # `steps`: perhaps the last part of a longer key
        inner = next((key for key in names if key.endswith(f".{name}")), "")
        names = [key for key in names if "." not in key]
    else:
        inner = ""
    return next(iter(difflib.get_close_matches(name, names, n=1, cutoff=0.6)), inner)


def explain_hydra_error(error: Exception, names: Iterable[str]) -> str:
    """Return one line for an error of Hydra; `names` are all groups, and all dotted keys of the default config."""
    options = getattr(error, "options", None)
    missing = getattr(error, "missing_cfg_file", None)
    if missing and options:
        group, _, choice = str(missing).rpartition("/")
        return f"{group}={choice}: no such choice{nearest_choice(choice, options)}"
    text = str(error).strip()
    if refused := re.search(r"Could not override '([^']+)'", text):
        name = refused.group(1)
        if (new := renamed_key(name)) != name:
            return f"{name}: renamed; use {new}=…"
        if name in optional_keys(Experiment):
            return f"{name}: not in this YAML; add it: +{name}=…"
        hint = _nearest_key(name, list(names))
        hint = f"did you mean {hint!r}?" if hint else "see --help for the groups; docs/configuration.md has all keys"
        return f"{name}: no such key or group; {hint}"
    if "Missing mandatory value" in text:
        key = getattr(error, "full_key", None) or "a key"
        return f"{key}: a value is needed; give {key}=…"
    return text.partition("\n\n")[0].replace("\n", " ")[:400]
