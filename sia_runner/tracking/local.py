"""The tracker that writes metrics.csv into the run directory, one row per generation."""

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

FIELDS = ["generation", "lever", "algorithm", "status", "val", "val_low", "val_high", "n", "seconds", "usd", "reason"]


class Local:
    """The tracker ``tracker=local``."""

    def update(self, run: Path, summary: Mapping[str, Any]) -> None:
        """Rewrite the whole file each time, so that a resumed run cannot leave a row twice."""
        temporary = run / ".metrics.csv.tmp"
        with temporary.open("w", newline="", encoding="utf-8") as stream:
            rows = csv.writer(stream)
            rows.writerow(FIELDS)
            rows.writerows(_row(generation) for generation in summary["generations"])
        temporary.replace(run / "metrics.csv")

    def close(self) -> None:
        """Do nothing: nothing is under way."""


def _row(generation: Mapping[str, Any]) -> list[Any]:
    val = generation["val"] or {"value": None, "ci95": None, "n": None}
    low, high = val["ci95"] or (None, None)
    seconds = round(sum(generation["seconds"].values()), 3)
    of_run = [generation[key] for key in ("n", "lever", "algorithm", "status")]
    return [*of_run, val["value"], low, high, val["n"], seconds, generation["usage"]["usd"], generation["reason"]]
