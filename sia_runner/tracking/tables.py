"""The tables of decisions and failures: levers, figures, kinds and stages.

They contain no text that a harness or a model wrote: a harness sees the questions of val and test, and what it prints
may be one of them.
"""

import builtins
import re
from collections.abc import Iterator
from typing import Any

from sia_runner.rundir import RunDir, read_json
from sia_runner.tracking.story import Json

Cells = list[Any]
DECISIONS = ("generation", "lever", "algorithm", "parent", "plateau", "status", "val", "change", "chosen_by", "rule",
             "rollouts", "reward_mean", "reward_variance", "reward_skew", "zero_share", "equal_groups")  # fmt: skip
TEXTS = ("title", "rationale")  # only if the configuration allows it
FAILURES = ("generation", "status", "stage", "fault", "kind", "count")
_STEPS = ("propose", "build", "gate", "run", "verify", "accept")
_SOLVED = frozenset({"correct", "partial"})
# Error classes that may be sent: Python's own and a few common ones. A harness's own class name could carry data.
_COMMON_ERRORS = {"JSONDecodeError", "OutOfMemoryError", "RateLimitError", "APIConnectionError", "APITimeoutError"}
_ERRORS = _COMMON_ERRORS | {
    name for name, kind in vars(builtins).items() if isinstance(kind, type) and issubclass(kind, BaseException)
}
_WORD = re.compile(r"\w+")


def decisions(run: RunDir, summary: Json, texts: bool) -> tuple[list[str], list[Cells]]:
    """Return columns and rows, one row per generation."""
    rows: list[Cells] = []
    best: float | None = None
    for g in summary["generations"]:
        value = g["val"]["value"] if g["val"] else None
        rows.append([*_decision_row(run, g, best), *(_texts(run, g) if texts else ())])
        best = value if g["status"] == "accepted" else best
    return [*DECISIONS, *(TEXTS if texts else ())], rows


def _decision_row(run: RunDir, g: Json, best: float | None) -> list[Any]:
    evidence = _read(run, g["n"]).get("evidence") or {}
    shape = evidence.get("shape") or {}
    value = g["val"]["value"] if g["val"] else None
    change = None if value is None or best is None else value - best
    columns = [g["n"], g["lever"], g["algorithm"], g["parent"], evidence.get("plateau"), g["status"], value, change]
    reward = [shape.get(key) for key in ("n", "mean", "variance", "skew", "zero_share", "equal_groups")]
    return [*columns, evidence.get("chosen_by"), (evidence.get("rule") or {}).get("rule"), *reward]


def _texts(run: RunDir, g: Json) -> list[str]:
    return [g["title"], _read(run, g["n"]).get("rationale", "")]


def _read(run: RunDir, n: int) -> dict[str, Any]:
    path = run.generation(n).decision
    return read_json(path) if path.is_file() else {}


def failures(summary: Json) -> tuple[list[str], list[Cells]]:
    """Return columns and rows.

    There is one row per generation and kind of outcome on val that is no success, and one for a generation that ended
    before it was scored.
    """
    return list(FAILURES), [row for g in summary["generations"] for row in _failure_rows(g)]


def _failure_rows(g: Json) -> Iterator[Cells]:
    if g["val"] is None:
        yield [g["n"], g["status"], _stage(g), _fault(g["reason"]), None, None]
    for kind, count in g["outcomes"].items():
        if kind not in _SOLVED:
            yield [g["n"], g["status"], None, None, kind, count]


def _fault(reason: str) -> str:
    """Return the error class that a reason ends with, as Python prints it, and no more of the line."""
    return next((word for word in reversed(_WORD.findall(reason)) if word in _ERRORS), "")


def _stage(g: Json) -> str:
    """Return the last step before the verdict."""
    reached = [step for step in _STEPS if step in g["seconds"] and step != "accept"]
    return reached[-1] if reached else ""
