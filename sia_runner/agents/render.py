"""Writes other values of tunable constants into a recipe's program; every other byte stays."""

import ast
from collections.abc import Mapping
from typing import cast

from sia_runner.agents.constants import Value


class RenderError(ValueError):
    """A constant that is not set exactly once, at the top level, to a literal; the message says which."""


def literals(program: str, names: set[str]) -> dict[str, Value]:
    """Return the values that the program itself gives to the constants `names`."""
    return {name: ast.literal_eval(node) for name, node in _assigned(program, names).items()}


def render(program: str, constants: Mapping[str, Value]) -> str:
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
