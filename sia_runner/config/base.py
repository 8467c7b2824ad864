"""Building blocks of the schemas: strict models, bounded numbers, all keys of a model, and the class that one names."""

import importlib
import inspect
from collections.abc import Mapping
from typing import Annotated, Any, get_args

from pydantic import BaseModel, ConfigDict, Discriminator, Field

from sia_runner.errors import RunnerError

FractionBelowOne = Annotated[float, Field(ge=0, lt=1)]
PositiveInt = Annotated[int, Field(ge=1)]
NonEmptyText = Annotated[str, Field(min_length=1)]
ClassPath = Annotated[str, Field(pattern=r"^[\w.]+\.\w+$")]  # module.Class


class ConfigSection(BaseModel):
    """A section of the configuration: unknown keys are errors; values are not coerced ("3" is not a number)."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, populate_by_name=True)


class NamedConfig(ConfigSection):
    """A choice of a group, with the name of its YAML file."""

    name: str


class ComponentConfig(NamedConfig):
    """A choice of a group that names its class. `target` is Hydra's ``_target_``."""

    target: str = Field(alias="_target_")


class CustomComponentConfig(ComponentConfig):
    """A component of the user's own package: each further key is an argument of its constructor."""

    model_config = ConfigDict(extra="allow")
    target: ClassPath = Field(alias="_target_")


def is_custom(name: Any) -> bool:
    """Return True if `name` names a class of the user's own, not a name or a class of ours."""
    return "." in str(name) and not str(name).startswith("sia_runner.")


def schema_by_class(key: str, ours: Mapping[str, str] | None = None, other: str = "Shipped") -> Discriminator:
    """Return the discriminator of sections whose `key` names a class or something shipped: errors name one schema.

    `ours` maps the start of a name to the tag of its schema; else that is `other`, or "Custom" for the user's own.
    """

    def tag(section: Any) -> str:
        attribute = "target" if key == "_target_" else key
        name = str(getattr(section, attribute) if isinstance(section, BaseModel) else section.get(key))
        tags = (schema for start, schema in (ours or {}).items() if name.startswith(start))
        return next(tags, "Custom" if is_custom(name) else other)

    return Discriminator(tag)


NAME_OR_CLASS = Discriminator(lambda value: "Class" if "." in str(value) else "Name")


class ComponentError(RunnerError):
    """A configured class cannot be used; the message is one line for the user (exit code 2)."""


def load_class(target: str, protocol: type | None = None) -> Any:
    """Return the class that ``module.Class`` names. Raises ComponentError, also if it lacks a method of `protocol`."""
    module, _, name = target.rpartition(".")
    try:
        loaded = getattr(importlib.import_module(module), name)
    except Exception as error:  # whatever the user's own module raises
        raise ComponentError(f"{target} cannot be loaded: {type(error).__name__}: {error}") from error
    if isinstance(loaded, type) and protocol:
        methods = [name for name, value in vars(protocol).items() if inspect.isfunction(value) and name[0] != "_"]
        if missing := [name for name in methods if not callable(getattr(loaded, name, None))]:
            where = f"{protocol.__module__}.{protocol.__name__}"
            raise ComponentError(f"{target} has no method {' and no method '.join(missing)}, which {where} asks for")
    return loaded


def new_component(target: str, protocol: type, *arguments: Any, **keys: Any) -> Any:
    """Build the component that ``module.Class`` names. Raises ComponentError, also for keys that it does not take."""
    build = load_class(target, protocol)
    try:
        inspect.signature(build).bind(*arguments, **keys)
    except TypeError as error:
        named = ", ".join(keys) or "none"
        raise ComponentError(f"{target} cannot be built from these keys ({named}): {error}") from None
    return build(*arguments, **keys)


def optional_keys(model: type[BaseModel], prefix: str = "") -> set[str]:
    """Return every dotted key that some choice of some group may have, also those that its YAML leaves out."""
    keys: set[str] = set()
    for name, field in model.model_fields.items():
        key = f"{prefix}{field.alias or name}"
        keys.add(key)
        for part in _models_of(field.annotation):
            keys |= optional_keys(part, f"{key}.")
    return keys


def _models_of(annotation: Any) -> list[type[BaseModel]]:
    """Return the models in an annotation: itself, or the members of a union, under any number of Annotated."""
    if isinstance(annotation, type):
        return [annotation] if issubclass(annotation, BaseModel) else []
    return [part for inner in get_args(annotation) for part in _models_of(inner)]
