"""Writes trajectories/<k>.md: every model call of the parent for one dev question, cut to the byte budget."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

from sia_runner.evidence import calls
from sia_runner.evidence.candidate import Candidate, Failure
from sia_runner.evidence.turns import answer, new_turns
from sia_runner.ground.plaintext import cell, cut, fenced, one_line, plain
from sia_runner.records import Outcome, OutcomeKind
from sia_runner.rundir import write_text

_MOST = 40  # files
_LARGEST = 24 * 1024  # bytes of one file
_SMALLEST = 2 * 1024
_FIRST, _LAST = 8, 24  # texts that are shown of a long trajectory: how it began, and how it came to its answer
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


def write(candidate: Candidate, failures: Sequence[Failure], folder: Path, most_bytes: int) -> dict[str, int]:
    """Write files for as many of `failures` (in order) and a few successes as fit.

    Returns unit -> number of its file.
    """
    locations = _where(candidate)
    share = min(_LARGEST, max(_SMALLEST, most_bytes // 16))
    written: dict[str, int] = {}
    remaining = most_bytes
    for subject in _subjects(candidate, failures):
        if subject.unit not in locations or len(written) == _MOST:
            continue
        path, offsets = locations[subject.unit]
        text = _render(len(written) + 1, subject, calls.read(path, offsets), share)
        size = len(text.encode(errors="backslashreplace"))
        if size <= remaining:
            folder.mkdir(exist_ok=True)
            remaining -= size
            written[subject.unit] = len(written) + 1
            write_text(folder / f"{written[subject.unit]}.md", text)
    return written


def _where(candidate: Candidate) -> dict[str, tuple[Path, Sequence[int]]]:
    """Return dev unit -> file and offsets of its calls."""
    locations: dict[str, tuple[Path, Sequence[int]]] = {}
    for path, questions in candidate.calls.items():
        for question, offsets in calls.index(path, questions).items():
            locations[questions[question]] = (path, offsets)
    return locations


def _subjects(candidate: Candidate, failures: Sequence[Failure]) -> Iterator[_Subject]:
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
    return _Subject(outcome.unit, outcome.kind, plain(outcome.prediction))


def _render(number: int, subject: _Subject, recorded: Sequence[calls.Call], limit: int) -> str:
    """Return a trajectory of about `limit` bytes: each text gets an equal share."""
    blocks = [block for position, call in enumerate(recorded) for block in _blocks(recorded, position, call)]
    left_out = len(blocks) - _FIRST - _LAST
    if left_out > 0:
        blocks = [*blocks[:_FIRST], (f"({left_out} more messages and answers are left out here)", ""), *blocks[-_LAST:]]
    share = max(96, limit * 3 // 4 // max(1, len(blocks)))
    parts = [_head(number, subject, len(recorded))]
    for title, text in blocks:
        parts.append(f"{title}\n\n{fenced(plain(cut(text, share)))}" if text else title)
    return "\n\n".join(parts) + "\n"


def _head(number: int, subject: _Subject, call_count: int) -> str:
    where = "" if subject.line is None else f", line {subject.line} of failures.jsonl"
    lines = [f"# Trajectory {number}: {subject.kind}{where}", "", f"- model calls: {call_count}"]
    lines += [f"- prediction: {cell(subject.prediction, 200)}"]
    lines += [f"- gold: {one_line(subject.gold)}"] if subject.gold else []
    return "\n".join(lines)


def _blocks(recorded: Sequence[calls.Call], position: int, call: calls.Call) -> Iterator[tuple[str, str]]:
    """Yield (title, text) of each message and of the answer, without messages that the previous call sent too."""
    same, turns = new_turns(call.get("request"), recorded[position - 1].get("request") if position else None)
    again = f", {same} messages as before" if same else ""
    yield f"## Call {position + 1}{_figures(call)}{again}", ""
    for role, content in turns:
        yield f"**{one_line(role, 20)}**", content or "(nothing)"
    error = call.get("error")
    if error:
        yield f"**failed**: {one_line(_error(error))}", ""
    else:
        yield "**answer**", answer(call.get("response")) or "(nothing)"


def _figures(call: calls.Call) -> str:
    usage = call.get("usage")
    tokens = usage if isinstance(usage, Mapping) else {}
    figures = [
        f"finish reason {one_line(str(call['finish_reason']), 30)}" if call.get("finish_reason") else "",
        f"{tokens['input']} + {tokens['output']} tokens" if {"input", "output"} <= tokens.keys() else "",
    ]
    return "".join(f", {figure}" for figure in figures if figure)


def _error(error: Any) -> str:
    if isinstance(error, Mapping):
        return f"{error.get('kind', 'error')}: {error.get('message', '')}"
    return str(error)
