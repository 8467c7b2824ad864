"""Reads a run's trajectories.jsonl: one finished model call a line, written by the gateway with a harness's texts."""

import json
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

_LONGEST = 16 * 1024 * 1024  # bytes of a line that is read; the gateway cuts request and answer well below

Call = Mapping[str, Any]
Places = Mapping[str, Sequence[int]]  # question -> offsets of its calls, in the order in which they ended


def index(path: Path, questions: Collection[str]) -> Places:
    """Return the file offsets of the calls of `questions` (ids of the view); memory does not grow with their texts."""
    places: dict[str, list[int]] = defaultdict(list)
    with path.open("rb") as stream:
        while line := stream.readline(_LONGEST):
            question = _parsed(line).get("question")
            if isinstance(question, str) and question in questions:
                places[question].append(stream.tell() - len(line))
    return places


def read(path: Path, offsets: Sequence[int]) -> list[Call]:
    """Read the calls at these offsets."""
    with path.open("rb") as stream:
        return [_read_at(stream, offset) for offset in offsets]


def _read_at(stream: Any, offset: int) -> Call:
    stream.seek(offset)
    return _parsed(stream.readline(_LONGEST))


def _parsed(line: bytes) -> dict[str, Any]:
    """Parse a line; empty for one that was cut by a kill or is too long."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return record if isinstance(record, dict) else {}
