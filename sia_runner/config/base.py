"""Building blocks of the schemas: strict models, bounded numbers, and the list of all keys that a model allows."""

from typing import Annotated, Any, get_args

from pydantic import BaseModel, ConfigDict, Field

PositiveFloat = Annotated[float, Field(gt=0)]
FractionBelowOne = Annotated[float, Field(ge=0, lt=1)]
PositiveInt = Annotated[int, Field(ge=1)]
NonEmptyText = Annotated[str, Field(min_length=1)]


class ConfigSection(BaseModel):
    """A section of the configuration: unknown keys are errors; values are not coerced ("3" is not a number)."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, populate_by_name=True)


class NamedConfig(ConfigSection):
    """A choice of a group, with the name of its YAML file."""

    name: str


class ComponentConfig(NamedConfig):
    """A choice of a group that names its class. `target` is Hydra's ``_target_``."""

    target: str = Field(alias="_target_")


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
