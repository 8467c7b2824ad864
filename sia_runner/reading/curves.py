"""Readers of training curves: from the journal after the training, from the files of its job before that."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sia_runner.reading.lines import Lines

POINTS = 2_000  # of each curve at most
NAMES = ("reward", "kl", "entropy", "length")
_LOGGED = re.compile(r"^step (\d+)/(\d+) · reward (\S+) · kl (\S+) · entropy (\S+) · (\d+) tokens · (\S+) s")


class Curves:
    """The curves of one generation that is still training. `steps`: steps done, and steps planned if known."""

    def __init__(self, run: Path, n: int) -> None:
        self._lines = {name: Lines(run, f"gen_{n}/{name}") for name in ("curve.jsonl", "training.log")}
        self._points: dict[str, dict[int, dict[str, float]]] = {name: {} for name in self._lines}
        self.steps: tuple[int, int | None] = (0, None)

    def refresh(self) -> dict[str, list[tuple[int, float]]]:
        """Return curve name -> (step, value), in order. A step repeated after a kill is in it once."""
        for name, lines in self._lines.items():
            for at, line in enumerate(lines.fresh()):
                if lines.restarted and at == 0:
                    self._points[name].clear()
                self._add_point(name, line.data)
        points_by_step = self._points["curve.jsonl"] or self._points["training.log"]
        curves = {
            name: [(step, figures[name]) for step, figures in sorted(points_by_step.items()) if name in figures]
            for name in NAMES
        }
        return {name: points for name, points in curves.items() if points}

    def _add_point(self, name: str, data: bytes) -> None:
        read = _point if name == "curve.jsonl" else _logged
        if (point := read(data)) is None or len(self._points[name]) >= POINTS:
            return
        step, planned, values = point
        self._points[name][step] = values
        self.steps = (step, planned or self.steps[1])


def of_training(training: Mapping[str, Any]) -> dict[str, list[tuple[int, float]]]:
    """Return the curves of a finished update, as `Curves.refresh` does. `training`: as in generations.py."""
    curves = {}
    for name in NAMES:
        values = (training.get(name) or [])[:POINTS]
        points = [(step, value) for step, value in enumerate(values, 1) if value is not None]
        curves |= {name: points} if points else {}
    return curves


def _point(data: bytes) -> tuple[int, int | None, dict[str, float]] | None:
    try:
        line = json.loads(data)
        values = {name: float(line[name]) for name in NAMES if isinstance(line.get(name), int | float)}
        planned = line.get("steps")
        return int(line["step"]), planned if isinstance(planned, int) else None, _finite(values)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, OverflowError):
        return None


def _logged(data: bytes) -> tuple[int, int | None, dict[str, float]] | None:
    match = _LOGGED.match(data[:400].decode(errors="replace"))
    if not match:
        return None
    try:
        values = {name: float(match[at]) for name, at in (("reward", 3), ("kl", 4), ("entropy", 5))}
        return int(match[1]), int(match[2]), _finite(values)
    except ValueError:
        return None


def _finite(values: Mapping[str, float]) -> dict[str, float]:
    return {name: value for name, value in values.items() if abs(value) < float("inf")}
