"""Read and check what a task declares: tasks/<name>/recipes/recipes.yaml and the programs beside it."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sia_runner.agents.constants import Choice, Constant, Number, same
from sia_runner.agents.protocol import ProposerError
from sia_runner.agents.render import RenderError, literals
from sia_runner.agents.space import Recipe, Space

_NUMBER_KEYS = {"low", "high", "log", "default", "says"}
_CHOICE_KEYS = {"choices", "default", "says"}


def load(folder: Path) -> Space | None:
    """Return the space in `folder`/recipes.yaml; None when there is no such file.

    Raises ProposerError with one line for the first fault.
    """
    path = folder / "recipes.yaml"
    if not path.is_file():
        return None
    import yaml

    try:
        declared = yaml.safe_load(path.read_bytes())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ProposerError(f"{path}: no valid YAML: {' '.join(str(error).split())}") from None
    try:
        top = _mapping(declared, "the file", allowed={"recipes"}, needed={"recipes"})
        recipes = _mapping(top["recipes"], "recipes")
        if not recipes:
            raise ValueError("recipes is empty; expected at least one")
        return Space(
            {
                str(name): _recipe(folder, str(name), i, declaration)
                for i, (name, declaration) in enumerate(recipes.items())
            }
        )
    except ValueError as fault:
        raise ProposerError(f"{path}: {fault}") from None


def _recipe(folder: Path, name: str, order: int, declaration: Any) -> Recipe:
    where = f"recipe {name}"
    keys = {"file", "title", "idea"}
    declaration = _mapping(declaration, where, allowed=keys | {"constants"}, needed=keys)
    for key in sorted(keys):
        if not isinstance(declaration[key], str) or not declaration[key].strip():
            raise ValueError(f"{where}: {key} is {declaration[key]!r}; expected a text")
    constant_declarations = _mapping(declaration.get("constants") or {}, f"{where}: constants")
    constants = {key: _constant(f"{where}, constant {key}", value) for key, value in constant_declarations.items()}
    program = _program(folder, where, declaration["file"])
    _check_program(where, declaration["file"], program, constants)
    return Recipe(
        name, order, " ".join(declaration["title"].split()), " ".join(declaration["idea"].split()), constants, program
    )


def _program(folder: Path, where: str, file: str) -> str:
    path = folder / file
    if not path.resolve().is_relative_to(folder.resolve()) or not path.is_file():
        raise ValueError(f"{where}: file {file} is not in {folder}")
    try:
        return path.read_bytes().decode("utf-8")
    except UnicodeDecodeError:
        raise ValueError(f"{where}: file {file} is no UTF-8 text") from None


def _check_program(where: str, file: str, program: str, constants: Mapping[str, Constant]) -> None:
    try:
        written = literals(program, set(constants))
    except SyntaxError as error:
        raise ValueError(f"{where}: {file} does not parse: {error.msg} (line {error.lineno})") from None
    except RenderError as fault:
        raise ValueError(f"{where}: in {file}, {fault}") from None
    for key, constant in constants.items():
        if not constant.agrees(written[key]):
            default, literal = constant.default, written[key]
            raise ValueError(f"{where}, constant {key}: default {default!r} differs from {literal!r} in {file}")


def _constant(where: str, declaration: Any) -> Constant:
    if isinstance(declaration, dict) and "choices" in declaration:
        return _choice(where, _mapping(declaration, where, allowed=_CHOICE_KEYS, needed={"choices", "default"}))
    return _number(where, _mapping(declaration, where, allowed=_NUMBER_KEYS, needed={"low", "high", "default"}))


def _choice(where: str, declaration: Mapping[str, Any]) -> Choice:
    choices, default = declaration["choices"], declaration["default"]
    if not isinstance(choices, list) or not all(_is_plain(choice) for choice in choices):
        raise ValueError(f"{where}: choices is {choices!r}; expected a list of plain values")
    if len(choices) < 2 or any(same(value, other) for i, value in enumerate(choices) for other in choices[:i]):
        raise ValueError(f"{where}: choices {choices!r} must be at least two different values")
    if not any(same(default, choice) for choice in choices):
        raise ValueError(f"{where}: default {default!r} is none of the choices {choices!r}")
    return Choice(tuple(choices), default, str(declaration.get("says", "")))


def _number(where: str, declaration: Mapping[str, Any]) -> Number:
    for key in ("low", "high", "default"):
        if isinstance(declaration[key], bool | str) or not _is_plain(declaration[key]) or declaration[key] is None:
            raise ValueError(
                f"{where}: {key} is {declaration[key]!r}; expected a finite number (YAML wants 1.0e-3, not 1e-3)"
            )
    log = declaration.get("log", False)
    low, high, default = declaration["low"], declaration["high"], declaration["default"]
    if not isinstance(log, bool):
        raise ValueError(f"{where}: log is {log!r}; expected true or false")
    if low >= high or (log and low <= 0):
        raise ValueError(f"{where}: low {low} must be below high {high}{' and above 0 (log: true)' if log else ''}")
    if not low <= default <= high:
        raise ValueError(f"{where}: default {default} is outside {low} to {high}")
    is_integer = isinstance(low, int) and isinstance(high, int)
    if is_integer and not isinstance(default, int):
        raise ValueError(
            f"{where}: default {default} is not whole, but low and high are (write {float(low)} for floats)"
        )
    return Number(low, high, default if is_integer else float(default), log, str(declaration.get("says", "")))


def _is_plain(value: Any) -> bool:
    return value is None or isinstance(value, bool | int | str) or (isinstance(value, float) and math.isfinite(value))


def _mapping(
    value: Any, where: str, *, allowed: set[str] | None = None, needed: frozenset[str] | set[str] = frozenset()
) -> Mapping[str, Any]:
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise ValueError(f"{where} is {type(value).__name__}; expected names with values")
    for key in sorted(value.keys() - allowed) if allowed is not None else []:
        raise ValueError(f"{where}: unknown key {key}; allowed: {', '.join(sorted(allowed or ()))}")
    for key in sorted(needed - value.keys()):
        raise ValueError(f"{where}: {key} is missing")
    return value
