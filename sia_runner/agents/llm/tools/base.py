"""What a tool is: a name, a typed schema of its arguments, and a function on the desk."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from sia_runner.agents.llm.desk import Desk
from sia_runner.agents.llm.draft import Refused

_SHOWN_FAULTS = 5


class Arguments(BaseModel):
    model_config = ConfigDict(extra="forbid")


@dataclass(frozen=True, slots=True)
class Tool:
    name: str
    says: str  # what the model is told
    arguments: type[Arguments]
    run: Callable[[Desk, Any], str]

    def schema(self) -> dict[str, Any]:
        """In the shape of OpenAI's `tools`."""
        parameters = _untitled(self.arguments.model_json_schema())
        parameters.pop("description", None)
        return {
            "type": "function",
            "function": {"name": self.name, "description": self.says, "parameters": parameters},
        }

    def call(self, desk: Desk, arguments: str) -> str:
        """Raises Refused, with all that is wrong with the arguments."""
        try:
            given = self.arguments.model_validate_json(arguments.strip() or "{}")
        except ValidationError as error:
            raise Refused(f"{self.name}: {_faults(error)}") from None
        return desk.clip(self.run(desk, given))


def _faults(error: ValidationError) -> str:
    """Never repeats what was given: it may be huge."""
    found = error.errors(include_url=False, include_input=False, include_context=False)
    lines = [f"{'.'.join(str(part)[:60] for part in fault['loc']) or 'arguments'}: {fault['msg']}" for fault in found]
    return "; ".join(lines[:_SHOWN_FAULTS])[:600]


def _untitled(schema: Any) -> Any:
    """Without the titles that pydantic makes of the names; a *property* called title stays."""
    if not isinstance(schema, dict):
        return schema
    kept = {key: value for key, value in schema.items() if not (key == "title" and isinstance(value, str))}
    return {key: _untitled(value) for key, value in kept.items()}
