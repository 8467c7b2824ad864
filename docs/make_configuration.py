"""Write docs/configuration.md, the reference of every configuration key, from the schema in sia_runner/config.

    python docs/make_configuration.py

Types, bounds and defaults come from the JSON schema, meanings from the comments beside the fields."""

import ast
import inspect
import io
import json
import re
import textwrap
import tokenize
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from sia_runner.config.base import ConfigSection
from sia_runner.config.experiment import Experiment
from sia_runner.system import bundled_folder

PAGE = Path(__file__).with_name("configuration.md")
CONF = bundled_folder("conf")
INTRODUCTION = """\
# Configuration keys

This page is generated: `python docs/make_configuration.py` writes it from `sia_runner/config/`.

A key is written with dots, as on the command line: `search.accept.rule=mcnemar`. A group (`task`, `meta_agent`,
`target_agent`, `policy`, `provider`, `trainer`, `sandbox`, `compute`, `tracker`, `search`) takes the name of a choice,
which is a YAML file in `conf/<group>/`: `task=lawbench`. A choice sets keys of its group; `policy` sets those of
`target_agent.policy`. `python -m sia_runner --help` lists all choices, and
`python -m sia_runner task=lawbench --cfg job` prints every value of one experiment. The defaults below are the
schema's; those of the first table are from `conf/config.yaml`. A choice may set other values. A key that no YAML
sets is added with `+` on the command line: `+task.limits.run=900`.

An unknown key, a value of the wrong type or a value out of bounds is refused before anything starts, with exit code 2.
`needed` means that there is no default. A group whose class you choose with `_target_` has a table for each class.
"""
BOUNDS = {
    "minimum": "≥ {}",
    "exclusiveMinimum": "> {}",
    "maximum": "≤ {}",
    "exclusiveMaximum": "< {}",
    "maxLength": "at most {} characters",
}
TYPES = {"integer": "integer", "number": "number", "string": "text", "boolean": "true or false", "null": "null"}


def render_page() -> str:
    """Return the text of the page."""
    schema = Experiment.model_json_schema()
    models = {model.__name__: model for model in _subclasses(ConfigSection)}
    paths: dict[str, list[str]] = defaultdict(list)
    _collect_paths(schema, schema["$defs"], "", paths)
    for where in paths.values():
        where.sort(key=lambda path: path.count("."))
    parts = [INTRODUCTION, "## The experiment\n", *_table(Experiment, schema, paths)]
    for name, where in paths.items():
        parts += [f"## {_title(name, paths)}\n", f"{_one_line(models[name].__doc__)}\n"]
        if where[1:]:
            parts.append(f"The same keys are at {', '.join(f'`{path}`' for path in where[1:])}.\n")
        parts += _table(models[name], schema["$defs"][name], paths)
    return "\n".join(parts).rstrip() + "\n"


def _subclasses(model: type[BaseModel]) -> Iterator[type[BaseModel]]:
    for child in model.__subclasses__():
        yield child
        yield from _subclasses(child)


def _collect_paths(schema: dict[str, Any], definitions: dict[str, Any], path: str, paths: dict[str, list[str]]) -> None:
    """Add every model below `schema` to `paths`: class name -> the dotted keys at which it stands."""
    for key, field in schema.get("properties", {}).items():
        for name, below in _references(field):
            where = ".".join(filter(None, [path, key, below]))
            if where not in paths[name]:
                paths[name].append(where)
            _collect_paths(definitions[name], definitions, where, paths)


def _references(field: dict[str, Any]) -> list[tuple[str, str]]:
    """Return the models in a field's schema, each with "*" if it stands below names of the user's choice."""
    if "$ref" in field:
        return [(field["$ref"].rpartition("/")[2], "")]
    found = [part for inner in field.get("anyOf", []) + field.get("oneOf", []) for part in _references(inner)]
    values = field.get("additionalProperties")
    return found + ([(name, "*") for name, _ in _references(values)] if isinstance(values, dict) else [])


def _title(name: str, paths: dict[str, list[str]]) -> str:
    return f"{paths[name][0]}: {name}"


def _table(model: type[BaseModel], schema: dict[str, Any], paths: dict[str, list[str]]) -> list[str]:
    meanings = {key: text for base in reversed(model.__mro__) for key, text in _comments(base).items()}
    yaml_lines = dict(re.findall(r"^(?:  - )?(\w+):(.*)", (CONF / "config.yaml").read_text(encoding="utf-8"), re.M))
    lines = ["| key | type | default | meaning |", "| --- | --- | --- | --- |"]
    for name, field in model.model_fields.items():
        key = field.alias or name
        kind = _type(schema["properties"][key], paths)
        meaning = meanings.get(name, "")
        if key == "_target_":
            meaning = "the class of this choice"
        elif name == "name" and not meaning:
            meaning = "the name of this choice"
        default = _default(field)
        if model is Experiment and key in yaml_lines:  # conf/config.yaml has a comment for each, and most defaults
            value, _, comment = yaml_lines[key].partition("#")
            default, meaning = f"`{value.strip()}`" if value.strip() else "its defaults", meaning or comment.strip()
        row = (f"`{key}`", kind, default, meaning or _purpose(schema["properties"][key]))
        lines.append("| " + " | ".join(cell.replace("|", r"\|") for cell in row) + " |")
    return [*lines, ""] if len(lines) > 2 else []


def _type(field: dict[str, Any], paths: dict[str, list[str]]) -> str:
    if "$ref" in field:
        name = field["$ref"].rpartition("/")[2]
        return f"[{name}](#{re.sub(r'[^a-z0-9_-]', '', _title(name, paths).lower().replace(' ', '-'))})"
    for parts in ("anyOf", "oneOf"):
        if parts in field:
            return " or ".join(dict.fromkeys(_type(part, paths) for part in field[parts]))
    if "enum" in field or "const" in field:
        return ", ".join(f"`{value}`" for value in field.get("enum", [field.get("const")]))
    if field.get("type") == "array":
        kind = f"list of {_type(field['items'], paths)}"
    elif field.get("type") == "object":
        kind = f"map of name to {_type(field['additionalProperties'], paths)}"
    else:
        kind = TYPES[field["type"]]
    bounds = [text.format(field[bound]) for bound, text in BOUNDS.items() if bound in field]
    return f"{kind} {', '.join(bounds)}".rstrip()


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "needed"
    value = field.get_default(call_default_factory=True, validated_data={})
    if isinstance(value, BaseModel):
        return "its defaults"
    return f"`{value if isinstance(value, str) else json.dumps(value)}`"


def _purpose(field: dict[str, Any]) -> str:
    """Return the first sentence on the section that a field holds; empty if it holds a value or one of several."""
    names = {name for name, _ in _references(field)}
    sections = [section for section in _subclasses(ConfigSection) if section.__name__ in names]
    return _one_line(sections[0].__doc__).partition(". ")[0].rstrip(".") if len(sections) == 1 else ""


def _comments(model: type) -> dict[str, str]:
    """Return field -> the comment above it or in its own lines, in the source of this class alone."""
    if not issubclass(model, ConfigSection):
        return {}
    source = textwrap.dedent(inspect.getsource(model))
    comments = {
        token.start[0]: (token.string.lstrip("# "), token.line.lstrip().startswith("#"))
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type == tokenize.COMMENT and not token.string.startswith("# noqa")  # that is for ruff
    }
    meanings = {}
    for node in ast.parse(source).body[0].body:  # type: ignore[attr-defined]  # the class itself
        if isinstance(node, ast.AnnAssign):
            above = node.lineno - 1
            while comments.get(above, ("", False))[1]:
                above -= 1
            lines = [comments[line][0] for line in range(above + 1, node.end_lineno + 1) if line in comments]
            meanings[ast.unparse(node.target)] = _one_line(" ".join(lines))
    return meanings


def _one_line(text: str | None) -> str:
    return " ".join((text or "").split())


if __name__ == "__main__":
    PAGE.write_text(render_page(), encoding="utf-8")
