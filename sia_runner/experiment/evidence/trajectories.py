"""Writes trajectories/<k>.md: every model call of the parent for one dev question, from a run's trajectories.jsonl."""

import json
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile, zip_longest
from pathlib import Path
from typing import Any

from sia_runner.experiment.evidence.candidate import CandidateEvidence, DevFailure
from sia_runner.records import Json, OutcomeKind
from sia_runner.store.files import as_dict, as_list, parse_object
from sia_runner.store.run_directory import write_text
from sia_runner.text import fenced_block, one_line, strip_control_characters, table_cell, truncate_bytes

_MAX_LINE_BYTES = 16 * 1024 * 1024  # bytes of a line that is read; the gateway cuts request and answer well below
_MAX_FILES = 40  # files
_MAX_FILE_BYTES = 24 * 1024  # bytes of one file
_MIN_FILE_BYTES = 2 * 1024
_FIRST_TEXTS, _LAST_TEXTS = 8, 24  # shown of a long trajectory: how it began, and how it came to its answer
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
    """Write files for as many of `failures` (in order) and a few successes as fit. Return unit -> number of file."""
    locations = {
        questions[question]: (path, offsets)
        for path, questions in candidate.calls.items()
        for question, offsets in _index_calls(path, questions).items()
    }
    share = min(_MAX_FILE_BYTES, max(_MIN_FILE_BYTES, most_bytes // 16))
    written, remaining = dict[str, int](), most_bytes
    for subject in _subjects(candidate, failures):
        if subject.unit not in locations or len(written) == _MAX_FILES:
            continue
        text = _render_trajectory(len(written) + 1, subject, _read_calls(*locations[subject.unit]), share)
        size = len(text.encode(errors="backslashreplace"))
        if size <= remaining:
            folder.mkdir(exist_ok=True)
            remaining -= size
            written[subject.unit] = len(written) + 1
            write_text(folder / f"{written[subject.unit]}.md", text, durable=False)
    return written


def _index_calls(path: Path, questions: Collection[str]) -> Mapping[str, Sequence[int]]:
    """Return question (id of the view) -> offsets of its calls; memory does not grow with their texts."""
    places: dict[str, list[int]] = defaultdict(list)
    with path.open("rb") as stream:
        while line := stream.readline(_MAX_LINE_BYTES):
            question = (parse_object(line) or {}).get("question")
            if isinstance(question, str) and question in questions:
                places[question].append(stream.tell() - len(line))
    return places


def _read_calls(path: Path, offsets: Sequence[int]) -> list[Json]:
    calls: list[Json] = []
    with path.open("rb") as stream:
        for offset in offsets:
            stream.seek(offset)
            calls.append(parse_object(stream.readline(_MAX_LINE_BYTES)) or {})  # {}: cut by a kill, or too long
    return calls


def _subjects(candidate: CandidateEvidence, failures: Sequence[DevFailure]) -> Iterator[_Subject]:
    """Yield failures in their order, and after every few of them a success to compare with."""
    failed = [
        _Subject(f.unit, f.content["kind"], f.content["prediction"], f.content["gold"], line)
        for line, f in enumerate(failures, 1)
    ]
    solved = [
        _Subject(outcome.unit, outcome.kind, strip_control_characters(outcome.prediction))
        for outcome in candidate.dev
        if outcome.kind is OutcomeKind.CORRECT
    ]
    batches = [failed[k : k + _FAILURES_PER_SUCCESS] for k in range(0, len(failed), _FAILURES_PER_SUCCESS)]
    for batch, success in zip_longest(batches, solved[: max(_FEWEST_SUCCESSES, len(batches))]):
        yield from batch or ()
        if success:
            yield success


def _render_trajectory(number: int, subject: _Subject, calls: Sequence[Json], limit: int) -> str:
    """Return a trajectory of about `limit` bytes: each text gets an equal share."""
    blocks = [block for position in range(len(calls)) for block in _blocks(calls, position)]
    left_out = len(blocks) - _FIRST_TEXTS - _LAST_TEXTS
    if left_out > 0:
        note = (f"({left_out} more messages and answers are left out here)", "")
        blocks = [*blocks[:_FIRST_TEXTS], note, *blocks[-_LAST_TEXTS:]]
    share = max(96, limit * 3 // 4 // max(1, len(blocks)))
    where = "" if subject.line is None else f", line {subject.line} of failures.jsonl"
    head = [f"# Trajectory {number}: {subject.kind}{where}", "", f"- model calls: {len(calls)}"]
    head += [f"- prediction: {table_cell(subject.prediction, 200)}"]
    head += [f"- gold: {one_line(subject.gold)}"] if subject.gold else []
    parts = ["\n".join(head)]
    for title, text in blocks:
        shown = fenced_block(strip_control_characters(truncate_bytes(text, share))) if text else ""
        parts.append(f"{title}\n\n{shown}" if text else title)
    return "\n\n".join(parts) + "\n"


def _blocks(calls: Sequence[Json], position: int) -> Iterator[tuple[str, str]]:
    """Yield (title, text) of each message and of the answer, without messages that the previous call sent too."""
    call = calls[position]
    messages = _messages(call.get("request"))
    earlier = _messages(calls[position - 1].get("request")) if position else []
    same = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(messages, earlier, strict=False)))
    tokens = as_dict(call.get("usage"))
    figures = [f"finish reason {one_line(str(call['finish_reason']), 30)}"] if call.get("finish_reason") else []
    figures += [f"{tokens['input']} + {tokens['output']} tokens"] if {"input", "output"} <= tokens.keys() else []
    figures += [f"{same} messages as before"] if same else []
    yield ", ".join([f"## Call {position + 1}", *figures]), ""
    if notice := call.get("notice"):
        yield f"**the provider**: {one_line(str(notice))}", ""
    for message in messages[same:]:
        role = as_dict(message).get("role")
        yield f"**{one_line(role if isinstance(role, str) else 'request', 20)}**", _message_text(message) or "(nothing)"
    if error := call.get("error"):
        fields = as_dict(error)
        text = f"{fields.get('kind', 'error')}: {fields.get('message', '')}" if fields else str(error)
        yield f"**failed**: {one_line(text)}", ""
    else:
        yield "**answer**", _message_text(call.get("response")) or "(nothing)"


def _messages(request: Any) -> list[Any]:
    fields = as_dict(request)
    if not fields:
        return [request] if request else []
    messages, system = fields.get("messages"), fields.get("system")
    if not isinstance(messages, list):
        return [fields]
    return ([{"role": "system", "content": system}] if system else []) + as_list(messages)


def _message_text(message: Any) -> str:
    """Return text first, then tool calls; a message with neither is shown as JSON."""
    fields = as_dict(message)
    calls = as_list(fields.get("tool_calls"))
    if "content" not in fields and "text" not in fields and not calls:
        return _value_text(message)
    content = fields.get("content", fields.get("text"))
    parts = [_part_text(part) for part in as_list(content)] if isinstance(content, list) else [_value_text(content)]
    for call in calls:
        function = as_dict(as_dict(call).get("function", call))
        name, arguments = _value_text(function.get("name")), _value_text(function.get("arguments"))
        parts.append(f"calls {name}({arguments})" if function else _value_text(call))
    return "\n".join(part for part in parts if part)


def _part_text(part: Any) -> str:
    text = as_dict(part).get("text")
    return text if isinstance(text, str) else _value_text(part)


def _value_text(value: Any) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
