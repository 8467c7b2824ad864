"""Training curves of a generation: from the journal when it is done; while it trains, from what its job writes."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sia_runner.reading.lines import Lines

POINTS = 2_000  # kept of each curve
NAMES = ("reward", "kl", "entropy", "length")
_LOGGED = re.compile(r"^step (\d+)/(\d+) · reward (\S+) · kl (\S+) · entropy (\S+) · (\d+) tokens · (\S+) s")


class Curves:
    """Of one generation that is training. `steps`: done and asked, as far as it was said."""

    def __init__(self, run: Path, n: int) -> None:
        self._lines = {name: Lines(run, f"gen_{n}/{name}") for name in ("curve.jsonl", "training.log")}
        self._seen: dict[str, dict[int, dict[str, float]]] = {name: {} for name in self._lines}
        self.steps: tuple[int, int | None] = (0, None)

    def refresh(self) -> dict[str, list[tuple[int, float]]]:
        """name -> (step, value), in order. A step that was done again after a kill is there once."""
        for name, lines in self._lines.items():
            for at, line in enumerate(lines.fresh()):
                if lines.restarted and at == 0:
                    self._seen[name].clear()
                self._see(name, line.data)
        seen = self._seen["curve.jsonl"] or self._seen["training.log"]
        found = {name: [(step, one[name]) for step, one in sorted(seen.items()) if name in one] for name in NAMES}
        return {name: points for name, points in found.items() if points}

    def _see(self, name: str, data: bytes) -> None:
        read = _point if name == "curve.jsonl" else _logged
        if (point := read(data)) is None or len(self._seen[name]) >= POINTS:
            return
        step, asked, values = point
        self._seen[name][step] = values
        self.steps = (step, asked or self.steps[1])


def of_training(training: Mapping[str, Any]) -> dict[str, list[tuple[int, float]]]:
    """The same of a finished update, as generations.py gives it."""
    found = {}
    for name in NAMES:
        values = (training.get(name) or [])[:POINTS]
        points = [(step, value) for step, value in enumerate(values, 1) if value is not None]
        found |= {name: points} if points else {}
    return found


def _point(data: bytes) -> tuple[int, int | None, dict[str, float]] | None:
    try:
        line = json.loads(data)
        values = {name: float(line[name]) for name in NAMES if isinstance(line.get(name), int | float)}
        asked = line.get("steps")
        return int(line["step"]), asked if isinstance(asked, int) else None, _finite(values)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, OverflowError):
        return None


def _logged(data: bytes) -> tuple[int, int | None, dict[str, float]] | None:
    found = _LOGGED.match(data[:400].decode(errors="replace"))
    if not found:
        return None
    try:
        values = {name: float(found[at]) for name, at in (("reward", 3), ("kl", 4), ("entropy", 5))}
        return int(found[1]), int(found[2]), _finite(values)
    except ValueError:
        return None


def _finite(values: Mapping[str, float]) -> dict[str, float]:
    return {name: value for name, value in values.items() if abs(value) < float("inf")}
