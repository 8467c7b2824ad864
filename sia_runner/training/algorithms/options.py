"""The options of an algorithm, validated, and the policy loss that online algorithms share."""

from dataclasses import fields
from typing import Any, TypeVar

from pydantic import ConfigDict, ValidationError

from sia_runner.schema.training import Algorithm
from sia_runner.training.algorithms.protocol import Loss
from sia_runner.training.protocol import TrainingError

STRICT = ConfigDict(extra="forbid", strict=True)  # strict: "3" is not a number
Schema = TypeVar("Schema")


def read(schema: type[Schema], algorithm: Algorithm) -> Schema:
    """Return `algorithm.options` as `schema`, a frozen pydantic dataclass.

    Raises TrainingError for an unknown key, or a value out of bounds.
    """
    allowed = [field.name for field in fields(schema)]  # pyright: ignore[reportArgumentType]
    unknown = sorted(set(algorithm.options) - set(allowed))
    if unknown:
        remedy = f"allowed: {', '.join(allowed)}" if allowed else "it has none"
        raise TrainingError(f"algorithm={algorithm.algorithm} has no option {unknown[0]!r}; {remedy}")
    try:
        return schema(**algorithm.options)
    except ValidationError as error:
        raise TrainingError(_sentence(algorithm.algorithm, error.errors()[0])) from error


def policy_loss(
    algorithm: Algorithm,
    loss_type: str = "dapo",
    importance_level: str = "token",
    iterations: int = 1,
    epsilon_high: float | None = None,
) -> Loss:
    """Return the clipped policy loss.

    The default, DAPO's, divides by the tokens of the whole step: a constant, so long completions are not favoured, and
    slicing the step over micro-batches or processes changes nothing.
    """
    clip = algorithm.clip
    assert clip is not None  # noqa: S101 - checked by the schema: online
    return Loss(loss_type, clip, epsilon_high or clip, algorithm.kl, importance_level, iterations)


def _sentence(name: str, fault: Any) -> str:
    where = ".".join(str(part) for part in fault["loc"])
    return f"option {where} of algorithm={name}: {fault['msg']}; given: {fault['input']!r}"
