"""failures.jsonl: dev questions that were not fully correct, chosen to stand for all of them."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from sia_runner.evidence.candidate import Candidate, Failure
from sia_runner.ground.sampling import by_confusion, representative
from sia_runner.rundir import write_text


def chosen(about: Candidate, most: int, most_bytes: int) -> list[Failure]:
    """At most `most` failures that together take at most `most_bytes`, the telling ones first."""
    stratum = by_confusion([failure.shown for failure in about.failures])
    kept: list[Failure] = []
    left = most_bytes
    for failure in representative(about.failures, lambda failure: stratum(failure.shown)):
        taken = _bytes(failure)
        if len(kept) < most and taken <= left:
            kept.append(failure)
            left -= taken
    return kept


def size(failures: Sequence[Failure]) -> int:
    return sum(map(_bytes, failures))


def write(failures: Sequence[Failure], trajectories: Mapping[str, int], path: Path) -> None:
    """One JSON object a line. `trajectories`: unit -> number of its file in trajectories/."""
    write_text(path, "".join(_line(failure, trajectories.get(failure.unit)) for failure in failures))


def _line(failure: Failure, trajectory: int | None) -> str:
    """The longest line ends are guarded against: U+2028 and its kind are escaped, so a line is a line to any reader."""
    shown = failure.shown if trajectory is None else {**failure.shown, "trajectory": trajectory}
    text = json.dumps(shown, ensure_ascii=False)
    for end in "\x85\u2028\u2029":
        text = text.replace(end, f"\\u{ord(end):04x}")
    return text + "\n"


def _bytes(failure: Failure) -> int:
    return len(_line(failure, 10**4).encode(errors="backslashreplace"))
