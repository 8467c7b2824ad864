"""Defines a tool: a name, a typed schema of its arguments, and a function on the workspace."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from sia_runner.agents.llm.desk import Desk
from sia_runner.agents.llm.draft import Refused

_SHOWN_FAULTS = 5


class Arguments(BaseModel):
    """The arguments of a tool call; unknown keys are refused."""

    model_config = ConfigDict(extra="forbid")


@dataclass(frozen=True, slots=True)
class Tool:
    """A tool that the model may call."""

    name: str
    description: str  # for the model
    arguments: type[Arguments]
    run: Callable[[Desk, Any], str]

    def schema(self) -> dict[str, Any]:
        """Return the tool's schema in the shape of OpenAI's `tools`."""
        parameters = _untitled(self.arguments.model_json_schema())
        parameters.pop("description", None)
        return {
            "type": "function",
            "function": {"name": self.name, "description": self.description, "parameters": parameters},
        }

    def call(self, desk: Desk, arguments: str) -> str:
        """Carry out a call with JSON arguments. Raises Refused with all that is wrong with them."""
        try:
            parsed = self.arguments.model_validate_json(arguments.strip() or "{}")
        except ValidationError as error:
            raise Refused(f"{self.name}: {_faults(error)}") from None
        return desk.clip(self.run(desk, parsed))


def _faults(error: ValidationError) -> str:
    """Describe the errors without repeating the input, which may be huge."""
    errors = error.errors(include_url=False, include_input=False, include_context=False)
    lines = [
        f"{'.'.join(str(part)[:60] for part in detail['loc']) or 'arguments'}: {detail['msg']}" for detail in errors
    ]
    return "; ".join(lines[:_SHOWN_FAULTS])[:600]


def _untitled(schema: Any) -> Any:
    """Remove the titles that pydantic makes of names; a *property* called title stays."""
    if not isinstance(schema, dict):
        return schema
    properties = {key: value for key, value in schema.items() if not (key == "title" and isinstance(value, str))}
    return {key: _untitled(value) for key, value in properties.items()}
