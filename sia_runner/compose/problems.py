"""Explanations of configuration errors: a line for each, with key, value, allowed values and nearest name."""

import difflib
import re
from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import ValidationError

from sia_runner.config import Experiment
from sia_runner.schema.parts import optional_keys


def explain(error: ValidationError, composed: Mapping[str, Any]) -> list[str]:
    """Return a line per error that the schema found."""
    return list(dict.fromkeys(_line(fault, composed) for fault in error.errors()))


def _line(fault: Any, composed: Mapping[str, Any]) -> str:
    path = _path(fault["loc"], composed)
    key = ".".join(path)
    message = fault["msg"].removeprefix("Value error, ")
    if fault["type"] == "extra_forbidden":
        siblings = [name for name in _at(composed, path[:-1]) if name != path[-1]]
        return f"{key}={_show(fault['input'])}: no such key{nearest(path[-1], siblings)}"
    if fault["type"] == "missing":
        return f"{key}: missing; give it"
    if fault["type"] == "value_error":
        return message if not key else f"{key}: {message}"
    return f"{key}={_show(fault['input'])}: {message[0].lower()}{message[1:]}"


def _path(location: Iterable[Any], composed: Mapping[str, Any]) -> list[str]:
    """Return the steps of the key, without pydantic's names of union branches, which are not keys."""
    path: list[str] = []
    tree: Any = composed
    for step in location:
        branch = isinstance(step, str) and ("." in step or step[:1].isupper())
        if branch and not (isinstance(tree, Mapping) and step in tree):
            continue
        path.append(str(step))
        tree = tree.get(step) if isinstance(tree, Mapping) else None
    return path


def _at(tree: Any, path: Iterable[str]) -> list[str]:
    for step in path:
        tree = tree.get(step, {}) if isinstance(tree, Mapping) else {}
    return [str(key) for key in tree] if isinstance(tree, Mapping) else []


def _show(value: Any) -> str:
    text = "null" if value is None else str(value)
    return text if len(text) <= 60 else text[:57] + "..."


def nearest(name: str, choices: Iterable[str]) -> str:
    """Return ``; did you mean 'x'?; allowed: …``, as far as there are such choices."""
    choices = sorted(choices)
    close = difflib.get_close_matches(name, choices, n=1, cutoff=0.6)
    allowed = f"; allowed: {', '.join(choices[:40])}" if choices else ""
    return (f"; did you mean {close[0]!r}?" if close else "") + allowed


def explain_hydra(error: Exception, keys: Iterable[str], groups: Mapping[str, list[str]]) -> str:
    """Return one line for an error of Hydra.

    `keys` are all dotted keys of the default config, `groups` the choices by group.
    """
    options = getattr(error, "options", None)
    missing = getattr(error, "missing_cfg_file", None)
    if missing and options:
        group, _, choice = str(missing).rpartition("/")
        return f"{group}={choice}: no such choice{nearest(choice, options)}"
    text = str(error).strip()
    refused = re.search(r"Could not override '([^']+)'", text)
    if refused:
        name = refused.group(1)
        if name in optional_keys(Experiment):
            return f"{name}: not in this YAML; add it: +{name}=…"
        return f"{name}: no such key or group{_nearest_key(name, keys, groups)}"
    if "Missing mandatory value" in text:
        key = getattr(error, "full_key", None) or "a key"
        return f"{key}: a value is needed; give {key}=…"
    return text.partition("\n\n")[0].replace("\n", " ")[:400]


def _nearest_key(name: str, keys: Iterable[str], groups: Mapping[str, list[str]]) -> str:
    close = difflib.get_close_matches(name, [*keys, *groups], n=1, cutoff=0.6)
    return f"; did you mean {close[0]!r}?" if close else "; see --help for the groups and --cfg job for all keys"
