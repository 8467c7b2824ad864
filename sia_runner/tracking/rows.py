"""The figures of a run directory as numbered rows in an order that never changes, and its tables."""

import builtins
import itertools
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from sia_runner.records import Json, score_columns
from sia_runner.store.files import LineReader, as_dict, finite_figures, load_json
from sia_runner.store.generations import GenerationRecord
from sia_runner.store.run_directory import GenerationDir, RunDir


class CurveReader:
    """The curve of one generation; see GenerationDir.curve."""

    def __init__(self, generation: GenerationDir) -> None:
        self._lines = LineReader(generation.path, generation.curve.name)
        self._newest = -1.0

    def news(self) -> Iterator[dict[str, float]]:
        """Yield the steps that were added since the last call."""
        for line in self._lines.fresh(1 << 62):
            figures = finite_figures(line.data)
            if figures.get("step", -1.0) > self._newest:
                self._newest = figures["step"]
                yield figures


def generations_of(summary: Mapping[str, Any]) -> list[GenerationRecord]:
    """Return the generations of summary.json."""
    return [GenerationRecord.from_summary_row(row) for row in summary["generations"]]


@dataclass(frozen=True, slots=True)
class TrackedRow:
    """One row of figures, numbered from 0. `verdict`: the generation if the row is its verdict."""

    number: int
    figures: Json
    verdict: GenerationRecord | None = None


class RowStream:
    """The rows of one run."""

    def __init__(self, run: RunDir) -> None:
        self._run = run
        self._next = 1  # the first generation whose verdict was not sent
        self._curve = CurveReader(run.generation(1))
        self._numbers, self._points = itertools.count(), 0
        self._best: float | None = None

    def news(self, summary: Mapping[str, Any]) -> Iterator[TrackedRow]:
        """Yield the rows that were added since the last call. What `summary` mentions must be on disk."""
        finished = {g.n: g for g in generations_of(summary)}
        while True:
            for figures in self._curve.news():
                self._points += 1  # counts the steps of all generations: the axis of the curves
                position: Json = {"train/generation": self._next, "train/point": self._points}
                of_training = {f"train/{key}": value for key, value in figures.items()}
                yield TrackedRow(next(self._numbers), position | of_training)
            if self._next not in finished:
                return
            verdict = finished[self._next]
            if verdict.status == "accepted" and verdict.val:
                self._best = verdict.val.value
            yield TrackedRow(next(self._numbers), _verdict_figures(verdict, self._best), verdict)
            self._next += 1
            self._curve = CurveReader(self._run.generation(self._next))


def _verdict_figures(g: GenerationRecord, best: float | None) -> Json:
    figures: Json = {
        "generation": g.n,
        "accepted": int(g.status == "accepted"),
        **{key: getattr(g, key) for key in ("status", "lever", "algorithm", "parent", "partner")},
        "proposer_model": g.model or None,
        **score_columns("val", g.val),
        "best_val": best,
        "seconds": round(sum(g.seconds.values()), 3),
        **{f"seconds/{step}": value for step, value in g.seconds.items()},
        **{f"usage/{key}": value for key, value in (g.usage or {}).items()},
        **{f"outcomes/{kind}": count for kind, count in g.outcomes.items()},
    }
    if g.training:
        figures |= {f"update/{key}": getattr(g.training, key) for key in ("steps", "tokens", "seconds")}
        figures["update/stopped_early"] = int(bool(g.training.stopped))
    return {key: value for key, value in figures.items() if value is not None}


_DECISION_COLUMNS = (
    *("generation", "lever", "algorithm", "parent", "plateau", "status", "val", "change", "chosen_by", "rule"),
    *("rollouts", "reward_mean", "reward_variance", "reward_skew", "zero_share", "equal_groups"),
)
_TEXT_COLUMNS = ("title", "rationale")  # only if the configuration allows it: they may hold questions of val or test
_FAILURE_COLUMNS = ("generation", "status", "stage", "fault", "kind", "count")
_SOLVED = frozenset({"correct", "partial"})
# Error classes that may be sent: Python's own and a few common ones. A harness's own class name could carry data.
_COMMON_ERRORS = {"JSONDecodeError", "OutOfMemoryError", "RateLimitError", "APIConnectionError", "APITimeoutError"}
_KNOWN_ERRORS = _COMMON_ERRORS | {
    name for name, kind in vars(builtins).items() if isinstance(kind, type) and issubclass(kind, BaseException)
}


def decisions_table(run: RunDir, summary: Mapping[str, Any], texts: bool) -> tuple[list[str], list[list[Any]]]:
    """Return columns and rows, one row per generation."""
    rows: list[list[Any]] = []
    best: float | None = None
    for g in generations_of(summary):
        decision, value = as_dict(load_json(run.path, f"gen_{g.n}/decision.json")), g.val.value if g.val else None
        evidence = decision.get("evidence") or {}
        shape, rule = evidence.get("shape") or {}, evidence.get("rule") or {}
        change = None if value is None or best is None else value - best
        row = [g.n, g.lever, g.algorithm, g.parent, evidence.get("plateau"), g.status, value, change]
        measured = (shape.get(key) for key in ("n", "mean", "variance", "skew", "zero_share", "equal_groups"))
        row += [evidence.get("chosen_by"), rule.get("rule"), *measured]
        rows.append(row + ([g.title, decision.get("rationale", "")] if texts else []))
        best = value if g.status == "accepted" else best
    return [*_DECISION_COLUMNS, *(_TEXT_COLUMNS if texts else ())], rows


def failures_table(summary: Mapping[str, Any]) -> tuple[list[str], list[list[Any]]]:
    """Return columns and rows: one per generation and kind of outcome on val that is no success, or without a score."""
    rows: list[list[Any]] = []
    for g in generations_of(summary):
        if g.val is None:
            stage = next((step for step in reversed([*g.seconds]) if step != "accept"), "")
            # the error class that a reason ends with, as Python prints it, and no more of the line
            error = next((word for word in reversed(re.findall(r"\w+", g.reason)) if word in _KNOWN_ERRORS), "")
            rows.append([g.n, g.status, stage, error, None, None])
        failures = [(kind, count) for kind, count in g.outcomes.items() if kind not in _SOLVED]
        rows += [[g.n, g.status, None, None, kind, count] for kind, count in failures]
    return list(_FAILURE_COLUMNS), rows
