"""What a run directory has to tell, as numbered rows in an order that never changes: the curve of a generation's
training before its verdict, generations by their numbers. So a row that was told once is known by its number, in
whatever process."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from sia_runner.rundir import RunDir
from sia_runner.tracking.curve import Curve, Figures

Json = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Row:
    number: int  # from 0
    figures: dict[str, Any]
    generation: int | None = None  # whose verdict this is


class Story:
    """Of one run. `news(summary)` gives the rows that were added since it was called last, from the first on."""

    def __init__(self, run: RunDir) -> None:
        self._run = run
        self._next = 1  # the generation that is under way, as far as was told
        self._curve = Curve(run.generation(1).curve)
        self._rows = self._points = 0
        self._best: float | None = None

    def news(self, summary: Json) -> Iterator[Row]:
        """`summary` was read before this is called: what it knows of is then on disk."""
        judged = {g["n"]: g for g in summary["generations"]}
        while True:
            for figures in self._curve.news():
                self._points += 1
                yield self._row(_trained(self._next, self._points, figures))
            if self._next not in judged:
                return
            now = judged[self._next]
            if now["status"] == "accepted":
                self._best = now["val"]["value"]
            yield self._row(_judged(now, self._best), now["n"])
            self._next += 1
            self._curve = Curve(self._run.generation(self._next).curve)

    def _row(self, figures: dict[str, Any], generation: int | None = None) -> Row:
        self._rows += 1
        return Row(self._rows - 1, figures, generation)


def _trained(n: int, point: int, figures: Figures) -> dict[str, Any]:
    """`train/point` counts the steps of all generations: the axis of the curves."""
    return {"train/generation": n, "train/point": point} | {f"train/{key}": value for key, value in figures.items()}


def _judged(g: Json, best: float | None) -> dict[str, Any]:
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
