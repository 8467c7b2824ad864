"""trajectories/<k>.md: every model call that the parent made for one dev question, cut to the byte budget."""

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
    """One question: its place in failures.jsonl, or none when it was answered correctly."""

    unit: str
    kind: str
    prediction: str
    gold: str = ""
    line: int | None = None


def write(about: Candidate, failures: Sequence[Failure], folder: Path, most_bytes: int) -> dict[str, int]:
    """Files for as many of `failures` (in order) and a few successes as fit. Returns unit -> number of its file."""
    where = _where(about)
    share = min(_LARGEST, max(_SMALLEST, most_bytes // 16))
    written: dict[str, int] = {}
    left = most_bytes
    for subject in _subjects(about, failures):
        if subject.unit not in where or len(written) == _MOST:
            continue
        path, offsets = where[subject.unit]
        text = _render(len(written) + 1, subject, calls.read(path, offsets), share)
        taken = len(text.encode(errors="backslashreplace"))
        if taken <= left:
            folder.mkdir(exist_ok=True)
            left -= taken
            written[subject.unit] = len(written) + 1
            write_text(folder / f"{written[subject.unit]}.md", text)
    return written


def _where(about: Candidate) -> dict[str, tuple[Path, Sequence[int]]]:
    """Dev unit -> file and offsets of the calls made for it. Other questions are not looked at."""
    found: dict[str, tuple[Path, Sequence[int]]] = {}
    for path, asked in about.calls.items():
        for question, offsets in calls.index(path, asked).items():
            found[asked[question]] = (path, offsets)
    return found


def _subjects(about: Candidate, failures: Sequence[Failure]) -> Iterator[_Subject]:
    """Failures in their order, and after each few of them a success to compare them with."""
    failed = [
        _Subject(f.unit, f.shown["kind"], f.shown["prediction"], f.shown["gold"], line)
        for line, f in enumerate(failures, 1)
    ]
    solved = [_success(outcome) for outcome in about.dev if outcome.kind is OutcomeKind.CORRECT]
    batches = [failed[k : k + _FAILURES_PER_SUCCESS] for k in range(0, len(failed), _FAILURES_PER_SUCCESS)]
    few = solved[: max(_FEWEST_SUCCESSES, len(batches))]
    for batch, success in zip_longest(batches, few):
        yield from batch or ()
        if success:
            yield success


def _success(outcome: Outcome) -> _Subject:
    return _Subject(outcome.unit, outcome.kind, plain(outcome.prediction))


def _render(number: int, subject: _Subject, made: Sequence[calls.Call], most: int) -> str:
    """About `most` bytes: each text gets an equal share of them."""
    blocks = [block for place, call in enumerate(made) for block in _blocks(made, place, call)]
    left_out = len(blocks) - _FIRST - _LAST
    if left_out > 0:
        blocks = [*blocks[:_FIRST], (f"({left_out} more messages and answers are left out here)", ""), *blocks[-_LAST:]]
    share = max(96, most * 3 // 4 // max(1, len(blocks)))
    parts = [_head(number, subject, len(made))]
    for title, text in blocks:
        parts.append(f"{title}\n\n{fenced(plain(cut(text, share)))}" if text else title)
    return "\n\n".join(parts) + "\n"


def _head(number: int, subject: _Subject, made: int) -> str:
    where = "" if subject.line is None else f", line {subject.line} of failures.jsonl"
    lines = [f"# Trajectory {number}: {subject.kind}{where}", "", f"- model calls: {made}"]
    lines += [f"- prediction: {cell(subject.prediction, 200)}"]
    lines += [f"- gold: {one_line(subject.gold)}"] if subject.gold else []
    return "\n".join(lines)


def _blocks(made: Sequence[calls.Call], place: int, call: calls.Call) -> Iterator[tuple[str, str]]:
    """(title, text) of each message and of the answer; not again what the call before it sent as well."""
    same, turns = new_turns(call.get("request"), made[place - 1].get("request") if place else None)
    again = f", {same} messages as before" if same else ""
    yield f"## Call {place + 1}{_figures(call)}{again}", ""
    for who, said in turns:
        yield f"**{one_line(who, 20)}**", said or "(nothing)"
    error = call.get("error")
    if error:
        yield f"**failed**: {one_line(_error(error))}", ""
    else:
        yield "**answer**", answer(call.get("response")) or "(nothing)"


def _figures(call: calls.Call) -> str:
    usage = call.get("usage")
    tokens = usage if isinstance(usage, Mapping) else {}
    known = [
        f"finish reason {one_line(str(call['finish_reason']), 30)}" if call.get("finish_reason") else "",
        f"{tokens['input']} + {tokens['output']} tokens" if {"input", "output"} <= tokens.keys() else "",
    ]
    return "".join(f", {figure}" for figure in known if figure)


def _error(error: Any) -> str:
    if isinstance(error, Mapping):
        return f"{error.get('kind', 'error')}: {error.get('message', '')}"
    return str(error)
