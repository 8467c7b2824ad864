"""Defines the search space of a task: recipes with tunable constants, read from tasks/<name>/recipes/recipes.yaml.

A variant gives each constant a value. Rendering writes the values into the recipe's program; every other byte stays.
"""

import ast
import json
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, combinations, product
from pathlib import Path
from random import Random
from typing import Any, cast

from sia_runner.proposers.protocol import ProposerError

ConstantValue = bool | int | float | str | None
_DIGITS = 3  # significant digits of a float: finer steps only make diffs harder to read


@dataclass(frozen=True, slots=True)
class NumberConstant:
    """A tunable number from `low` to `high`, both included; an integer when both are ints. `says` describes it."""

    low: float
    high: float
    default: float
    log: bool = False  # moves by factors instead of differences
    says: str = ""

    @property
    def is_integer(self) -> bool:
        """True when all values are integers."""
        return isinstance(self.low, int) and isinstance(self.high, int)

    def values(self) -> Sequence[ConstantValue]:
        """Return all allowed values; none when they cannot be listed."""
        return range(int(self.low), int(self.high) + 1) if self.is_integer else ()

    def holds(self, value: Any) -> bool:
        """Return whether `value` has the right type and lies in the range."""
        return type(value) is (int if self.is_integer else float) and self.low <= value <= self.high

    def sample(self, rng: Random) -> ConstantValue:
        """Draw a value evenly, on the log scale where `log` is set."""
        return self._at(rng.random())

    def nudge(self, value: Any, rng: Random, width: float) -> ConstantValue:
        """Return a value near `value`: a normal step of `width` times the range, at least 1 for integers."""
        low, high = self._scaled(self.low), self._scaled(self.high)
        position = (self._scaled(value) - low) / (high - low)
        moved = self._at(min(1.0, max(0.0, position + rng.gauss(0, width))))
        if moved == value and self.is_integer:
            return rng.choice([v for v in (int(value) - 1, int(value) + 1) if self.low <= v <= self.high])
        return moved

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

    def values(self) -> Sequence[ConstantValue]:
        """Return all choices."""
        return self.choices

    def holds(self, value: Any) -> bool:
        """Return whether `value` is one of the choices."""
        return any(_same_literal(value, choice) for choice in self.choices)

    def sample(self, rng: Random) -> ConstantValue:
        """Draw a choice evenly."""
        return rng.choice(self.choices)

    def nudge(self, value: ConstantValue, rng: Random, width: float) -> ConstantValue:
        """Draw one of the other choices: choices have no distance."""
        return rng.choice([other for other in self.choices if not _same_literal(other, value)])


Constant = NumberConstant | ChoiceConstant


def _same_literal(value: ConstantValue, other: ConstantValue) -> bool:
    """Return whether two Python literals are equal in type and value: True is not 1, and 1 is not 1.0."""
    return type(value) is type(other) and value == other


def program_literals(program: str, names: set[str]) -> dict[str, ConstantValue]:
    """Return the values that the program itself gives to the constants `names`. Raises ValueError as rendering does."""
    return {name: ast.literal_eval(node) for name, node in _assigned(program, names).items()}


def render_program(program: str, constants: Mapping[str, ConstantValue]) -> str:
    """Return the program with ``NAME = literal`` of each constant replaced. Raises ValueError as `_assigned` does."""
    source = program.encode()
    starts = list(accumulate(map(len, source.splitlines(keepends=True)), initial=0))
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
    """Return the value of ``NAME = value`` or ``NAME: type = value`` at the module's top level for each name.

    Raises ValueError for a name that is not set exactly once, at the top level, to a literal.
    """
    pairs: list[tuple[str, ast.expr]] = []
    for statement in ast.parse(program).body:
        match statement:
            case ast.Assign(targets=targets, value=value):
                pairs += [(target.id, value) for target in targets if isinstance(target, ast.Name)]
            case ast.AnnAssign(target=ast.Name(id=name), value=ast.expr() as value):
                pairs.append((name, value))
    values: dict[str, ast.expr] = {}
    for name, node in pairs:
        if name not in names:
            continue
        if name in values:
            raise ValueError(f"{name} is assigned more than once at the top level")
        try:
            ast.literal_eval(node)
        except ValueError:
            raise ValueError(f"{name} is set to an expression in line {node.lineno}, not to a literal") from None
        values[name] = node
    for name in sorted(names - values.keys()):
        raise ValueError(f"{name} is not assigned at the top level (expected a line `{name} = <literal>`)")
    return values


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
        if all(values):
            for combination in product(*values):
                yield Variant(self.name, dict(zip(self.constants, combination, strict=True)))


@dataclass(frozen=True, slots=True)
class Space:
    """The recipes of a task, by name."""

    recipes: Mapping[str, Recipe]

    def defaults(self) -> list[Variant]:
        """Return every recipe at its defaults."""
        return [recipe.default() for recipe in self.recipes.values()]

    def program(self, variant: Variant) -> str:
        """Return the program of a variant."""
        return render_program(self.recipes[variant.recipe].program, variant.constants)

    def holds(self, variant: Variant) -> bool:
        """Return whether a variant belongs to the space as declared now: the task may have changed since."""
        recipe = self.recipes.get(variant.recipe)
        if recipe is None or recipe.constants.keys() != variant.constants.keys():
            return False
        return all(constant.holds(variant.constants[name]) for name, constant in recipe.constants.items())


def load_space(folder: Path) -> Space | None:
    """Return the space in `folder`/recipes.yaml, or None without the file. Raises ProposerError for the first fault."""
    path = folder / "recipes.yaml"
    if not path.is_file():
        return None
    import yaml

    try:
        declared = yaml.safe_load(path.read_bytes())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ProposerError(f"{path}: no valid YAML: {' '.join(str(error).split())}") from None
    try:
        recipes = _mapping(_mapping(declared, "the file", needed={"recipes"}, optional=())["recipes"], "recipes")
        if not recipes:
            raise ValueError("recipes is empty; expected at least one")
        return Space({name: _recipe(folder, name, i, recipe) for i, (name, recipe) in enumerate(recipes.items())})
    except ValueError as fault:
        raise ProposerError(f"{path}: {fault}") from None


def _recipe(folder: Path, name: str, order: int, declaration: Any) -> Recipe:
    where = f"recipe {name}"
    keys = {"file", "title", "idea"}
    declaration = _mapping(declaration, where, needed=keys, optional={"constants"})
    for key in sorted(keys):
        if not isinstance(declaration[key], str) or not declaration[key].strip():
            raise ValueError(f"{where}: {key} is {declaration[key]!r}; expected a text")
    declared_constants = _mapping(declaration.get("constants") or {}, f"{where}: constants")
    constants = {key: _constant(f"{where}, constant {key}", value) for key, value in declared_constants.items()}
    file, title, idea = (" ".join(declaration[key].split()) for key in ("file", "title", "idea"))
    path = folder / file
    if not path.resolve().is_relative_to(folder.resolve()) or not path.is_file():
        raise ValueError(f"{where}: file {file} is not in {folder}")
    try:
        program = path.read_bytes().decode("utf-8")
        literals = program_literals(program, set(constants))
    except UnicodeDecodeError:
        raise ValueError(f"{where}: file {file} is no UTF-8 text") from None
    except SyntaxError as error:
        raise ValueError(f"{where}: {file} does not parse: {error.msg} (line {error.lineno})") from None
    except ValueError as fault:
        raise ValueError(f"{where}: in {file}, {fault}") from None
    for key, constant in constants.items():
        default, literal = constant.default, literals[key]
        whole = isinstance(constant, NumberConstant) and type(literal) is int and literal == default  # 1 for 1.0
        if not whole and not _same_literal(literal, default):
            raise ValueError(f"{where}, constant {key}: default {default!r} differs from {literal!r} in {file}")
    return Recipe(name, order, title, idea, constants, program)


def _constant(where: str, declaration: Any) -> Constant:
    if not isinstance(declaration, dict) or "choices" not in declaration:
        return _number(where, _mapping(declaration, where, {"low", "high", "default"}, {"log", "says"}))
    declaration = _mapping(declaration, where, {"choices", "default"}, {"says"})
    choices, default = declaration["choices"], declaration["default"]
    if not isinstance(choices, list) or not all(_is_number(c) or isinstance(c, bool | str | None) for c in choices):
        raise ValueError(f"{where}: choices is {choices!r}; expected a list of plain values")
    if len(choices) < 2 or any(_same_literal(*pair) for pair in combinations(choices, 2)):
        raise ValueError(f"{where}: choices {choices!r} must be at least two different values")
    constant = ChoiceConstant(tuple(choices), default, str(declaration.get("says", "")))
    if not constant.holds(default):
        raise ValueError(f"{where}: default {default!r} is none of the choices {choices!r}")
    return constant


def _number(where: str, declaration: Mapping[str, Any]) -> NumberConstant:
    for key in ("low", "high", "default"):
        if not _is_number(declaration[key]):
            expected = "expected a finite number (YAML wants 1.0e-3, not 1e-3)"
            raise ValueError(f"{where}: {key} is {declaration[key]!r}; {expected}")
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
        remedy = f"write {float(low)} for floats"
        raise ValueError(f"{where}: default {default} is not whole, but low and high are ({remedy})")
    return NumberConstant(low, high, default if is_integer else float(default), log, str(declaration.get("says", "")))


def _is_number(value: Any) -> bool:
    return type(value) is int or (type(value) is float and math.isfinite(value))


def _mapping(
    value: Any, where: str, needed: Collection[str] = (), optional: Collection[str] | None = None
) -> Mapping[str, Any]:
    """Return a mapping with the needed keys; `optional` None allows all others."""
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise ValueError(f"{where} is {type(value).__name__}; expected names with values")
    if optional is not None:
        allowed = sorted({*needed, *optional})
        for key in sorted(value.keys() - allowed):
            raise ValueError(f"{where}: unknown key {key}; allowed: {', '.join(allowed)}")
    for key in sorted(needed):
        if key not in value:
            raise ValueError(f"{where}: {key} is missing")
    return value
