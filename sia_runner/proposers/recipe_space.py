"""Defines the search space of a task: recipes with tunable constants, read from tasks/<name>/recipes/recipes.yaml.

A variant gives each constant a value; rendering writes the values into the recipe's program, and every other byte
stays.
"""

import ast
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice, product
from pathlib import Path
from random import Random
from typing import Any, cast

from sia_runner.proposers.protocol import ProposerError

ConstantValue = bool | int | float | str | None
_DIGITS = 3  # significant digits of a float: finer steps only make diffs harder to read


@dataclass(frozen=True, slots=True)
class NumberConstant:
    """A tunable number from `low` to `high`, both included.

    It is an integer when both are ints. `log` moves by factors instead of differences. `says` describes it.
    """

    low: float
    high: float
    default: float
    log: bool = False
    says: str = ""

    @property
    def is_integer(self) -> bool:
        """True when the constant is an integer."""
        return isinstance(self.low, int) and isinstance(self.high, int)

    def values(self) -> Sequence[ConstantValue] | None:
        """Return all allowed values; None when they cannot be listed."""
        return range(int(self.low), int(self.high) + 1) if self.is_integer else None

    def holds(self, value: Any) -> bool:
        """Return whether `value` has the right type and lies in the range."""
        return type(value) is (int if self.is_integer else float) and self.low <= value <= self.high

    def agrees(self, literal: ConstantValue) -> bool:
        """Return whether a program's literal is the default; 1 stands for 1.0 in a range of floats."""
        return literal == self.default and type(literal) in ((int,) if self.is_integer else (int, float))

    def sample(self, rng: Random) -> ConstantValue:
        """Draw a value evenly, on the log scale where `log` is set."""
        return self._at(rng.random())

    def nudge(self, value: Any, rng: Random, width: float) -> ConstantValue:
        """Return a value near `value`: a normal step of `width` times the range, at least 1 for integers."""
        moved = self._at(min(1.0, max(0.0, self._position(value) + rng.gauss(0, width))))
        if moved == value and self.is_integer:
            steps = [v for v in (int(value) - 1, int(value) + 1) if self.low <= v <= self.high]
            return rng.choice(steps)
        return moved

    def _position(self, value: float) -> float:
        low, high = self._scaled(self.low), self._scaled(self.high)
        return (self._scaled(value) - low) / (high - low)

    def _at(self, position: float) -> float:
        low, high = self._scaled(self.low), self._scaled(self.high)
        scaled = low + position * (high - low)
        return self.tidy(math.exp(scaled) if self.log else scaled)

    def tidy(self, value: float) -> float:
        """Round a value as its kind is written and keep it inside the range."""
        if self.is_integer:
            return min(int(self.high), max(int(self.low), round(value)))
        return min(float(self.high), max(float(self.low), float(f"{value:.{_DIGITS}g}")))

    def _scaled(self, value: float) -> float:
        return math.log(value) if self.log else float(value)


@dataclass(frozen=True, slots=True)
class ChoiceConstant:
    """A tunable constant with at least two plain values to choose from."""

    choices: tuple[ConstantValue, ...]
    default: ConstantValue
    says: str = ""

    def values(self) -> Sequence[ConstantValue] | None:
        """Return all choices."""
        return self.choices

    def holds(self, value: Any) -> bool:
        """Return whether `value` is one of the choices."""
        return any(same_literal(value, choice) for choice in self.choices)

    def agrees(self, literal: ConstantValue) -> bool:
        """Return whether a program's literal is the default."""
        return same_literal(literal, self.default)

    def sample(self, rng: Random) -> ConstantValue:
        """Draw a choice evenly."""
        return rng.choice(self.choices)

    def nudge(self, value: ConstantValue, rng: Random, width: float) -> ConstantValue:  # choices have no distance
        """Draw one of the other choices: choices have no distance."""
        return rng.choice([other for other in self.choices if not same_literal(other, value)])


Constant = NumberConstant | ChoiceConstant


def same_literal(value: ConstantValue, other: ConstantValue) -> bool:
    """Return whether two Python literals are equal in type and value: True is not 1, and 1 is not 1.0."""
    return type(value) is type(other) and value == other


class RenderError(ValueError):
    """A constant that is not set exactly once, at the top level, to a literal; the message says which."""


def program_literals(program: str, names: set[str]) -> dict[str, ConstantValue]:
    """Return the values that the program itself gives to the constants `names`."""
    return {name: ast.literal_eval(node) for name, node in _assigned(program, names).items()}


def render_program(program: str, constants: Mapping[str, ConstantValue]) -> str:
    """Return the program with ``NAME = literal`` of each constant replaced. The result parses."""
    source = program.encode()
    starts = _line_starts(source)
    spans = []
    for name, node in _assigned(program, set(constants)).items():
        last, column = cast(tuple[int, int], (node.end_lineno, node.end_col_offset))
        begin = starts[node.lineno - 1] + node.col_offset  # ast counts columns in UTF-8 bytes
        spans.append((begin, starts[last - 1] + column, repr(constants[name])))
    for begin, end, value in sorted(spans, reverse=True):
        source = source[:begin] + value.encode() + source[end:]
    text = source.decode()
    ast.parse(text)
    return text


def _assigned(program: str, names: set[str]) -> dict[str, ast.expr]:
    values: dict[str, ast.expr] = {}
    for name, node in _module_assignments(program):
        if name not in names:
            continue
        if name in values:
            raise RenderError(f"{name} is assigned more than once at the top level")
        try:
            ast.literal_eval(node)
        except ValueError:
            raise RenderError(f"{name} is set to an expression in line {node.lineno}, not to a literal") from None
        values[name] = node
    for name in sorted(names - values.keys()):
        raise RenderError(f"{name} is not assigned at the top level (expected a line `{name} = <literal>`)")
    return values


def _module_assignments(program: str) -> list[tuple[str, ast.expr]]:
    """Return (name, value) of each ``NAME = value`` and ``NAME: type = value`` at the module's top level."""
    pairs: list[tuple[str, ast.expr]] = []
    for statement in ast.parse(program).body:
        match statement:
            case ast.Assign(targets=targets, value=value):
                pairs += [(target.id, value) for target in targets if isinstance(target, ast.Name)]
            case ast.AnnAssign(target=ast.Name(id=name), value=ast.expr() as value):
                pairs.append((name, value))
    return pairs


def _line_starts(source: bytes) -> list[int]:
    starts = [0]
    for line in source.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    return starts


@dataclass(frozen=True, slots=True)
class Variant:
    """A point of the space: a recipe and a value for each of its constants."""

    recipe: str
    constants: Mapping[str, ConstantValue]

    @property
    def key(self) -> str:
        """The variant as canonical JSON, to compare and store it."""
        return json.dumps([self.recipe, dict(self.constants)], sort_keys=True)


@dataclass(frozen=True, slots=True)
class Recipe:
    """A complete program with tunable constants. `order` is its position in the file: simple recipes come first."""

    name: str
    order: int
    title: str
    idea: str
    constants: Mapping[str, Constant]
    program: str

    def default(self) -> Variant:
        """Return the variant with all constants at their defaults."""
        return Variant(self.name, {name: constant.default for name, constant in self.constants.items()})

    def sample(self, rng: Random) -> Variant:
        """Draw a variant evenly."""
        return Variant(self.name, {name: constant.sample(rng) for name, constant in self.constants.items()})

    def variants(self) -> Iterator[Variant]:
        """Yield all variants; none when a constant's values cannot be listed."""
        values = [constant.values() for constant in self.constants.values()]
        listed = [value for value in values if value is not None]
        if len(listed) == len(values):
            for combination in product(*listed):
                yield Variant(self.name, dict(zip(self.constants, combination, strict=True)))


@dataclass(frozen=True, slots=True)
class Space:
    """The recipes of a task, by name."""

    recipes: Mapping[str, Recipe]

    def defaults(self) -> list[Variant]:
        """Return every recipe at its defaults."""
        return [recipe.default() for recipe in self.recipes.values()]

    def listed(self, at_most: int) -> Iterator[Variant]:
        """Yield the variants of every recipe whose variants can be listed, at most `at_most` of each."""
        for recipe in self.recipes.values():
            yield from islice(recipe.variants(), at_most)

    def program(self, variant: Variant) -> str:
        """Return the program of a variant."""
        return render_program(self.recipes[variant.recipe].program, variant.constants)

    def holds(self, variant: Variant) -> bool:
        """Return whether a variant belongs to the space as declared now: the task may have changed since."""
        recipe = self.recipes.get(variant.recipe)
        if recipe is None or recipe.constants.keys() != variant.constants.keys():
            return False
        return all(constant.holds(variant.constants[name]) for name, constant in recipe.constants.items())


_NUMBER_KEYS = {"low", "high", "log", "default", "says"}
_CHOICE_KEYS = {"choices", "default", "says"}


def load_space(folder: Path) -> Space | None:
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
        written = program_literals(program, set(constants))
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


def _choice(where: str, declaration: Mapping[str, Any]) -> ChoiceConstant:
    choices, default = declaration["choices"], declaration["default"]
    if not isinstance(choices, list) or not all(_is_plain(choice) for choice in choices):
        raise ValueError(f"{where}: choices is {choices!r}; expected a list of plain values")
    if len(choices) < 2 or any(same_literal(value, other) for i, value in enumerate(choices) for other in choices[:i]):
        raise ValueError(f"{where}: choices {choices!r} must be at least two different values")
    if not any(same_literal(default, choice) for choice in choices):
        raise ValueError(f"{where}: default {default!r} is none of the choices {choices!r}")
    return ChoiceConstant(tuple(choices), default, str(declaration.get("says", "")))


def _number(where: str, declaration: Mapping[str, Any]) -> NumberConstant:
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
    return NumberConstant(low, high, default if is_integer else float(default), log, str(declaration.get("says", "")))


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
