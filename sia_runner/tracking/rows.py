"""The figures of a run directory as numbered rows in an order that never changes, and its tables.

The curve of a generation's training comes before its verdict, generations by their numbers. So a row that was sent
once is known by its number, in whatever process. The tables have no text that a harness or a model wrote: a harness
sees the questions of val and test, and what it prints may be one of them."""

import builtins
import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sia_runner.store.run_directory import RunDir, read_json

_CHUNK_BYTES = 1 << 20  # bytes read at a time

Figures = dict[str, float]


class CurveReader:
    """The curve of one generation; see rundir.Generation.curve."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._read = 0
        self._newest = -1.0

    def news(self) -> Iterator[Figures]:
        """Yield the steps that were added since the last call."""
        while chunk := self._chunk():
            for line in chunk.splitlines():
                figures = _figures(line)
                if figures and figures["step"] > self._newest:
                    self._newest = figures["step"]
                    yield figures

    def _chunk(self) -> bytes:
        """Return complete lines, or b"" if there is nothing new.

        A line that is longer than one read is returned in parts, none of which parses as a step.
        """
        try:
            with self._file.open("rb") as stream:
                stream.seek(self._read)
                chunk = stream.read(_CHUNK_BYTES)
        except FileNotFoundError:
            return b""
        complete = chunk[: chunk.rfind(b"\n") + 1] or (chunk if len(chunk) == _CHUNK_BYTES else b"")
        self._read += len(complete)
        return complete


def _figures(line: bytes) -> Figures:
    """Return the finite numbers of a line, or {} if the line was cut."""
    try:
        parsed = json.loads(line)
        numbers: Figures = {key: n for key, n in parsed.items() if isinstance(n, int | float) and math.isfinite(n)}
    except (ValueError, AttributeError, OverflowError):
        return {}
    return numbers if "step" in numbers else {}


Json = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class TrackedRow:
    """One row of figures. `generation`: the generation if the row is its verdict."""

    number: int  # from 0
    figures: dict[str, Any]
    generation: int | None = None  # set if the row is its verdict


class RowStream:
    """The rows of one run."""

    def __init__(self, run: RunDir) -> None:
        self._run = run
        self._next = 1  # the first generation whose verdict was not sent
        self._curve = CurveReader(run.generation(1).curve)
        self._rows = self._points = 0
        self._best: float | None = None

    def news(self, summary: Json) -> Iterator[TrackedRow]:
        """Yield the rows that were added since the last call.

        `summary` was read before the call, so everything that it mentions is on disk.
        """
        finished = {g["n"]: g for g in summary["generations"]}
        while True:
            for figures in self._curve.news():
                self._points += 1
                yield self._row(_training_figures(self._next, self._points, figures))
            if self._next not in finished:
                return
            verdict = finished[self._next]
            if verdict["status"] == "accepted":
                self._best = verdict["val"]["value"]
            yield self._row(_verdict_figures(verdict, self._best), verdict["n"])
            self._next += 1
            self._curve = CurveReader(self._run.generation(self._next).curve)

    def _row(self, figures: dict[str, Any], generation: int | None = None) -> TrackedRow:
        self._rows += 1
        return TrackedRow(self._rows - 1, figures, generation)


def _training_figures(n: int, point: int, figures: Figures) -> dict[str, Any]:
    """Return a row of training. `train/point` counts the steps of all generations: the axis of the curves."""
    return {"train/generation": n, "train/point": point} | {f"train/{key}": value for key, value in figures.items()}


def _verdict_figures(g: Json, best: float | None) -> dict[str, Any]:
    val = g["val"] or {}
    low, high = val.get("ci95") or (None, None)
    figures = {
        "generation": g["n"],
        "status": g["status"],
        "accepted": int(g["status"] == "accepted"),
        "lever": g["lever"],
        "algorithm": g["algorithm"],
        "parent": g["parent"],
        "val": val.get("value"),
        "val_low": low,
        "val_high": high,
        "val_n": val.get("n"),
        "best_val": best,
        "seconds": round(sum(g["seconds"].values()), 3),
        **{f"seconds/{step}": value for step, value in g["seconds"].items()},
        **{f"usage/{key}": value for key, value in g["usage"].items()},
        **{f"outcomes/{kind}": count for kind, count in g["outcomes"].items()},
    }
    if update := g.get("training"):
        figures |= {f"update/{key}": update[key] for key in ("steps", "tokens", "seconds")}
        figures["update/stopped_early"] = int(bool(update["stopped"]))
    return {key: value for key, value in figures.items() if value is not None}


Cells = list[Any]
DECISION_COLUMNS = (
    "generation",
    "lever",
    "algorithm",
    "parent",
    "plateau",
    "status",
    "val",
    "change",
    "chosen_by",
    "rule",
    "rollouts",
    "reward_mean",
    "reward_variance",
    "reward_skew",
    "zero_share",
    "equal_groups",
)
TEXT_COLUMNS = ("title", "rationale")  # only if the configuration allows it
FAILURE_COLUMNS = ("generation", "status", "stage", "fault", "kind", "count")
_STEPS = ("propose", "build", "gate", "run", "verify", "accept")
_SOLVED = frozenset({"correct", "partial"})
# Error classes that may be sent: Python's own and a few common ones. A harness's own class name could carry data.
_COMMON_ERRORS = {"JSONDecodeError", "OutOfMemoryError", "RateLimitError", "APIConnectionError", "APITimeoutError"}
_KNOWN_ERRORS = _COMMON_ERRORS | {
    name for name, kind in vars(builtins).items() if isinstance(kind, type) and issubclass(kind, BaseException)
}
_WORD = re.compile(r"\w+")


def decisions_table(run: RunDir, summary: Json, texts: bool) -> tuple[list[str], list[Cells]]:
    """Return columns and rows, one row per generation."""
    rows: list[Cells] = []
    best: float | None = None
    for g in summary["generations"]:
        value = g["val"]["value"] if g["val"] else None
        rows.append([*_decision_row(run, g, best), *(_text_cells(run, g) if texts else ())])
        best = value if g["status"] == "accepted" else best
    return [*DECISION_COLUMNS, *(TEXT_COLUMNS if texts else ())], rows


def _decision_row(run: RunDir, g: Json, best: float | None) -> list[Any]:
    evidence = _read_decision(run, g["n"]).get("evidence") or {}
    shape = evidence.get("shape") or {}
    value = g["val"]["value"] if g["val"] else None
    change = None if value is None or best is None else value - best
    columns = [g["n"], g["lever"], g["algorithm"], g["parent"], evidence.get("plateau"), g["status"], value, change]
    reward = [shape.get(key) for key in ("n", "mean", "variance", "skew", "zero_share", "equal_groups")]
    return [*columns, evidence.get("chosen_by"), (evidence.get("rule") or {}).get("rule"), *reward]


def _text_cells(run: RunDir, g: Json) -> list[str]:
    return [g["title"], _read_decision(run, g["n"]).get("rationale", "")]


def _read_decision(run: RunDir, n: int) -> dict[str, Any]:
    path = run.generation(n).decision
    return read_json(path) if path.is_file() else {}


def failures_table(summary: Json) -> tuple[list[str], list[Cells]]:
    """Return columns and rows.

    There is one row per generation and kind of outcome on val that is no success, and one for a generation that ended
    before it was scored.
    """
    return list(FAILURE_COLUMNS), [row for g in summary["generations"] for row in _failure_rows(g)]


def _failure_rows(g: Json) -> Iterator[Cells]:
    if g["val"] is None:
        yield [g["n"], g["status"], _last_step(g), _error_class(g["reason"]), None, None]
    for kind, count in g["outcomes"].items():
        if kind not in _SOLVED:
            yield [g["n"], g["status"], None, None, kind, count]


def _error_class(reason: str) -> str:
    """Return the error class that a reason ends with, as Python prints it, and no more of the line."""
    return next((word for word in reversed(_WORD.findall(reason)) if word in _KNOWN_ERRORS), "")


def _last_step(g: Json) -> str:
    """Return the last step before the verdict."""
    reached = [step for step in _STEPS if step in g["seconds"] and step != "accept"]
    return reached[-1] if reached else ""
