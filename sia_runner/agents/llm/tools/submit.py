"""Proposes the draft. The loop ends when it is accepted; otherwise the faults are sent back."""

from pydantic import Field

from sia_runner.agents.llm.desk import Desk, Submitted, clip, plain
from sia_runner.agents.llm.draft import Refused, digest
from sia_runner.agents.llm.tools.base import Arguments, Tool

_TITLE = 100  # characters
_TEXT = 4000  # bytes


class Submit(Arguments):
    """The arguments of `submit`."""

    title: str = Field(min_length=1, description="the change in one short line")
    rationale: str = Field(min_length=1, description="what fails now, why, and how the change mends the cause")
    expected_effect: str = Field(
        min_length=1, description="which questions should change, by how much, and what could get worse"
    )


def _submit(desk: Desk, arguments: Submit) -> str:
    if not desk.first and not desk.draft.changed:
        instead = "change something, train_weights, or stop" if desk.weights else "change something, or stop"
        raise Refused(f"the draft is the parent's harness unchanged, which can only tie; {instead}")
    fate = desk.earlier.get(digest(desk.draft.files))
    if fate:
        raise Refused(f"these very files were proposed before: {fate}; val is not there to be asked twice")
    fault = desk.draft.fault()
    if fault:
        raise Refused(f"not accepted: {fault}")
    desk.decision = Submitted(line(arguments.title), text(arguments.rationale), text(arguments.expected_effect))
    return "accepted"


def line(message: str) -> str:
    """Return the text as a title: one line, bounded."""
    single = " ".join(plain(message).split()) or "untitled"
    return single if len(single) <= _TITLE else f"{single[: _TITLE - 1]}…"


def text(message: str) -> str:
    """Return the text printable and bounded."""
    return clip(plain(message), _TEXT)


SUBMIT = Tool(
    "submit", "Propose the draft in harness/ as this generation's candidate. This ends your work.", Submit, _submit
)
