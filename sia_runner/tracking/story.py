"""The figures of a run directory as numbered rows in an order that never changes.

The curve of a generation's training comes before its verdict, generations by their numbers. So a row that was sent once
is known by its number, in whatever process.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from sia_runner.rundir import RunDir
from sia_runner.tracking.curve import Curve, Figures

Json = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Row:
    """One row of figures. `generation`: the generation if the row is its verdict."""

    number: int  # from 0
    figures: dict[str, Any]
    generation: int | None = None  # set if the row is its verdict


class Story:
    """The rows of one run."""

    def __init__(self, run: RunDir) -> None:
        self._run = run
        self._next = 1  # the first generation whose verdict was not sent
        self._curve = Curve(run.generation(1).curve)
        self._rows = self._points = 0
        self._best: float | None = None

    def news(self, summary: Json) -> Iterator[Row]:
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
            self._curve = Curve(self._run.generation(self._next).curve)

    def _row(self, figures: dict[str, Any], generation: int | None = None) -> Row:
        self._rows += 1
        return Row(self._rows - 1, figures, generation)


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
