"""Writes failures.jsonl: a representative choice of the dev questions that were not fully correct."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from sia_runner.evidence.candidate import Candidate, Failure
from sia_runner.ground.sampling import by_confusion, representative
from sia_runner.rundir import write_text


def chosen(candidate: Candidate, limit: int, most_bytes: int) -> list[Failure]:
    """Return at most `limit` failures of at most `most_bytes` in total, the most representative first."""
    stratum = by_confusion([failure.content for failure in candidate.failures])
    selection: list[Failure] = []
    remaining = most_bytes
    for failure in representative(candidate.failures, lambda failure: stratum(failure.content)):
        size = _bytes(failure)
        if len(selection) < limit and size <= remaining:
            selection.append(failure)
            remaining -= size
    return selection


def size(failures: Sequence[Failure]) -> int:
    """Return the bytes of these failures in failures.jsonl."""
    return sum(map(_bytes, failures))


def write(failures: Sequence[Failure], trajectories: Mapping[str, int], path: Path) -> None:
    """Write one JSON object a line. `trajectories` maps a unit to the number of its file in trajectories/."""
    write_text(path, "".join(_line(failure, trajectories.get(failure.unit)) for failure in failures))


def _line(failure: Failure, trajectory: int | None) -> str:
    """Return one line of JSON; U+2028 and similar are escaped, so that every reader sees one line."""
    content = failure.content if trajectory is None else {**failure.content, "trajectory": trajectory}
    text = json.dumps(content, ensure_ascii=False)
    for end in "\x85\u2028\u2029":
        text = text.replace(end, f"\\u{ord(end):04x}")
    return text + "\n"


def _bytes(failure: Failure) -> int:
    return len(_line(failure, 10**4).encode(errors="backslashreplace"))
