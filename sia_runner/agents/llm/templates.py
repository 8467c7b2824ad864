"""The templates of this proposer."""

from pathlib import Path
from typing import Any

from sia_runner.agents import templates

_PROMPTS = Path(__file__).parent / "prompts"


def render(template: str, **given: Any) -> str:
    return templates.render(_PROMPTS, template, **given)


def cell(text: object) -> str:
    return templates.cell(text, 200)
