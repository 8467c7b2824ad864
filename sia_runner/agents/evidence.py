"""Reads gen_<n>/evidence; missing files and fields count as empty."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Evidence:
    """The evidence that the recipe search uses: the incumbent's dev value, outcomes and failures."""

    incumbent: int | None = None  # its generation
    dev_value: float | None = None
    outcomes: Mapping[str, int] = field(default_factory=dict)  # kind -> count, of the incumbent's dev questions
    failures: Sequence[Mapping[str, Any]] = ()  # of the incumbent, on dev

    @staticmethod
    def read(folder: Path | None) -> "Evidence":
        """Read the evidence folder; None gives empty evidence."""
        if folder is None:
            return Evidence()
        summary, failures = folder / "summary.json", folder / "failures.jsonl"
        text = summary.read_text(encoding="utf-8") if summary.is_file() else "{}"
        incumbent = json.loads(text).get("incumbent") or {}
        lines = failures.read_text(encoding="utf-8").split("\n") if failures.is_file() else []
        return Evidence(
            incumbent.get("generation"),
            (incumbent.get("dev") or {}).get("value"),
            incumbent.get("outcomes") or {},
            [json.loads(line) for line in lines if line.strip()],
        )

    def confusions(self, limit: int) -> list[tuple[str, str, int]]:
        """Return (gold, prediction, count) of the most frequent wrong answers that occurred at least twice."""
        pairs = Counter(
            (str(failure["gold"]), str(failure["prediction"]))
            for failure in self.failures
            if failure.get("kind") == "wrong" and failure.get("gold") and failure.get("prediction")
        )
        ranked = sorted(pairs.items(), key=lambda pair: (-pair[1], pair[0]))
        return [(gold, prediction, count) for (gold, prediction), count in ranked[:limit] if count > 1]
