"""Writes trajectories/<k>.md: every model call of the parent for one dev question, cut to the byte budget.

The calls come from a run's trajectories.jsonl, which the gateway writes with a harness's texts.
"""

import json
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

from sia_runner.experiment.evidence.candidate import CandidateEvidence, DevFailure
from sia_runner.records import Outcome, OutcomeKind
from sia_runner.store.files import parse_object
from sia_runner.store.run_directory import write_text
from sia_runner.text import fenced_block, one_line, strip_control_characters, table_cell, truncate_bytes

_MAX_LINE_BYTES = 16 * 1024 * 1024  # bytes of a line that is read; the gateway cuts request and answer well below

RecordedCall = Mapping[str, Any]
CallOffsets = Mapping[str, Sequence[int]]  # question -> offsets of its calls, in the order in which they ended


def index_calls(path: Path, questions: Collection[str]) -> CallOffsets:
    """Return the file offsets of the calls of `questions` (ids of the view); memory does not grow with their texts."""
    places: dict[str, list[int]] = defaultdict(list)
    with path.open("rb") as stream:
        while line := stream.readline(_MAX_LINE_BYTES):
            question = (parse_object(line) or {}).get("question")
            if isinstance(question, str) and question in questions:
                places[question].append(stream.tell() - len(line))
    return places


def read_calls(path: Path, offsets: Sequence[int]) -> list[RecordedCall]:
    """Read the calls at these offsets."""
    with path.open("rb") as stream:
        return [_read_at(stream, offset) for offset in offsets]


def _read_at(stream: Any, offset: int) -> RecordedCall:
    stream.seek(offset)
    return parse_object(stream.readline(_MAX_LINE_BYTES)) or {}  # cut by a kill, or too long


MessageText = tuple[str, str]  # role, text


def new_messages(request: Any, before: Any) -> tuple[int, list[MessageText]]:
    """Return how many first messages `request` shares with `before`, and the messages that follow."""
    messages = _messages(request)
    earlier = _messages(before)
    same = 0
    while same < min(len(messages), len(earlier)) and messages[same] == earlier[same]:
        same += 1
    return same, [(_role(message), _message_text(message)) for message in messages[same:]]


def answer_text(response: Any) -> str:
    """Return the model's answer as text, tool calls included."""
    return _message_text(response) if isinstance(response, Mapping) else _value_text(response)


def _messages(request: Any) -> list[Any]:
    if not isinstance(request, Mapping):
        return [request] if request else []
    messages = request.get("messages")
    if not isinstance(messages, list):
        return [dict(request)]
    system = request.get("system")
    return ([{"role": "system", "content": system}] if system else []) + messages


def _role(message: Any) -> str:
    role = message.get("role") if isinstance(message, Mapping) else None
    return role if isinstance(role, str) else "request"


def _message_text(message: Any) -> str:
    """Return text first, then tool calls; a message with neither is shown as JSON."""
    if not isinstance(message, Mapping):
        return _value_text(message)
    content = message.get("content", message.get("text"))
    parts = [_part_text(part) for part in content] if isinstance(content, list) else [_value_text(content)]
    calls = message.get("tool_calls")
    parts += [_tool_call(call) for call in calls] if isinstance(calls, Sequence) and not isinstance(calls, str) else []
    if not any(parts) and "content" not in message and "text" not in message:
        return _value_text(message)
    return "\n".join(part for part in parts if part)


def _part_text(part: Any) -> str:
    if isinstance(part, Mapping) and isinstance(part.get("text"), str):
        return part["text"]
    return _value_text(part)


def _tool_call(call: Any) -> str:
    function = call.get("function", call) if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping):
        return _value_text(call)
    return f"calls {_value_text(function.get('name'))}({_value_text(function.get('arguments'))})"


def _value_text(value: Any) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


_MAX_FILES = 40  # files
_MAX_FILE_BYTES = 24 * 1024  # bytes of one file
_MIN_FILE_BYTES = 2 * 1024
_FIRST_TEXTS, _LAST_TEXTS = (
    8,
    24,
)  # texts that are shown of a long trajectory: how it began, and how it came to its answer
_FAILURES_PER_SUCCESS = 4
_FEWEST_SUCCESSES = 2


@dataclass(frozen=True, slots=True)
class _Subject:
    """A question and its line in failures.jsonl; None when it was answered correctly."""

    unit: str
    kind: str
    prediction: str
    gold: str = ""
    line: int | None = None


def write_trajectories(
    candidate: CandidateEvidence, failures: Sequence[DevFailure], folder: Path, most_bytes: int
) -> dict[str, int]:
    """Write files for as many of `failures` (in order) and a few successes as fit.

    Returns unit -> number of its file.
    """
    locations = _calls_by_question(candidate)
    share = min(_MAX_FILE_BYTES, max(_MIN_FILE_BYTES, most_bytes // 16))
    written: dict[str, int] = {}
    remaining = most_bytes
    for subject in _subjects(candidate, failures):
        if subject.unit not in locations or len(written) == _MAX_FILES:
            continue
        path, offsets = locations[subject.unit]
        text = _render_trajectory(len(written) + 1, subject, read_calls(path, offsets), share)
        size = len(text.encode(errors="backslashreplace"))
        if size <= remaining:
            folder.mkdir(exist_ok=True)
            remaining -= size
            written[subject.unit] = len(written) + 1
            write_text(folder / f"{written[subject.unit]}.md", text)
    return written


def _calls_by_question(candidate: CandidateEvidence) -> dict[str, tuple[Path, Sequence[int]]]:
    """Return dev unit -> file and offsets of its calls."""
    locations: dict[str, tuple[Path, Sequence[int]]] = {}
    for path, questions in candidate.calls.items():
        for question, offsets in index_calls(path, questions).items():
            locations[questions[question]] = (path, offsets)
    return locations


def _subjects(candidate: CandidateEvidence, failures: Sequence[DevFailure]) -> Iterator[_Subject]:
    """Yield failures in their order, and after every few of them a success to compare with."""
    failed = [
        _Subject(f.unit, f.content["kind"], f.content["prediction"], f.content["gold"], line)
        for line, f in enumerate(failures, 1)
    ]
    solved = [_success(outcome) for outcome in candidate.dev if outcome.kind is OutcomeKind.CORRECT]
    batches = [failed[k : k + _FAILURES_PER_SUCCESS] for k in range(0, len(failed), _FAILURES_PER_SUCCESS)]
    few = solved[: max(_FEWEST_SUCCESSES, len(batches))]
    for batch, success in zip_longest(batches, few):
        yield from batch or ()
        if success:
            yield success


def _success(outcome: Outcome) -> _Subject:
    return _Subject(outcome.unit, outcome.kind, strip_control_characters(outcome.prediction))


def _render_trajectory(number: int, subject: _Subject, recorded: Sequence[RecordedCall], limit: int) -> str:
    """Return a trajectory of about `limit` bytes: each text gets an equal share."""
    blocks = [block for position, call in enumerate(recorded) for block in _blocks(recorded, position, call)]
    left_out = len(blocks) - _FIRST_TEXTS - _LAST_TEXTS
    if left_out > 0:
        blocks = [
            *blocks[:_FIRST_TEXTS],
            (f"({left_out} more messages and answers are left out here)", ""),
            *blocks[-_LAST_TEXTS:],
        ]
    share = max(96, limit * 3 // 4 // max(1, len(blocks)))
    parts = [_head(number, subject, len(recorded))]
    for title, text in blocks:
        parts.append(
            f"{title}\n\n{fenced_block(strip_control_characters(truncate_bytes(text, share)))}" if text else title
        )
    return "\n\n".join(parts) + "\n"


def _head(number: int, subject: _Subject, call_count: int) -> str:
    where = "" if subject.line is None else f", line {subject.line} of failures.jsonl"
    lines = [f"# Trajectory {number}: {subject.kind}{where}", "", f"- model calls: {call_count}"]
    lines += [f"- prediction: {table_cell(subject.prediction, 200)}"]
    lines += [f"- gold: {one_line(subject.gold)}"] if subject.gold else []
    return "\n".join(lines)


def _blocks(recorded: Sequence[RecordedCall], position: int, call: RecordedCall) -> Iterator[tuple[str, str]]:
    """Yield (title, text) of each message and of the answer, without messages that the previous call sent too."""
    same, turns = new_messages(call.get("request"), recorded[position - 1].get("request") if position else None)
    again = f", {same} messages as before" if same else ""
    yield f"## Call {position + 1}{_figures(call)}{again}", ""
    for role, content in turns:
        yield f"**{one_line(role, 20)}**", content or "(nothing)"
    error = call.get("error")
    if error:
        yield f"**failed**: {one_line(_error_text(error))}", ""
    else:
        yield "**answer**", answer_text(call.get("response")) or "(nothing)"


def _figures(call: RecordedCall) -> str:
    usage = call.get("usage")
    tokens = usage if isinstance(usage, Mapping) else {}
    figures = [
        f"finish reason {one_line(str(call['finish_reason']), 30)}" if call.get("finish_reason") else "",
        f"{tokens['input']} + {tokens['output']} tokens" if {"input", "output"} <= tokens.keys() else "",
    ]
    return "".join(f", {figure}" for figure in figures if figure)


def _error_text(error: Any) -> str:
    if isinstance(error, Mapping):
        return f"{error.get('kind', 'error')}: {error.get('message', '')}"
    return str(error)
