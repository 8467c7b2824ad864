"""The trackers that need no service: one records nothing, one writes metrics.csv into the run directory."""

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sia_runner.records import score_columns
from sia_runner.tracking.rows import generations_of

FIELDS = ["generation", "lever", "algorithm", "status", "val", "val_low", "val_high", "n", "seconds", "usd", "reason"]


class Nothing:
    """The tracker ``tracker=none``: the run directory is the record."""

    def update(self, run: Path, summary: Mapping[str, Any]) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""


class Local:
    """The tracker ``tracker=local``: a row of metrics.csv for each generation."""

    def update(self, run: Path, summary: Mapping[str, Any]) -> None:
        """Rewrite the whole file each time, so that a resumed run cannot leave a row twice."""
        temporary = run / ".metrics.csv.tmp"
        with temporary.open("w", newline="", encoding="utf-8") as stream:
            rows = csv.writer(stream)
            rows.writerow(FIELDS)
            for g in generations_of(summary):
                val = score_columns("val", g.val).values()
                seconds, usd = round(sum(g.seconds.values()), 3), (g.usage or {}).get("usd")
                rows.writerow([g.n, g.lever, g.algorithm, g.status, *val, seconds, usd, g.reason])
        temporary.replace(run / "metrics.csv")

    def close(self) -> None:
        """Do nothing: nothing is under way."""
