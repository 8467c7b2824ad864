"""The medal that a score would have won on the competition's leaderboard, as MLE-bench counts it.

Thresholds by the number of teams are Kaggle's (kaggle.com/progression), with MLE-bench's rounding
(`mlebench/grade_helpers.py`, `Grader.rank_score`). The leaderboard was scored on Kaggle's own hidden test set, while
MLE-bench cuts its test set from the public training data: that is its protocol.
"""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

MEDALS = ("gold", "silver", "bronze")


@dataclass(frozen=True, slots=True)
class Leaderboard:
    """The scores of a leaderboard, best first."""

    scores: Sequence[float]

    @property
    def lower_is_better(self) -> bool:
        """True where the best score is the lowest."""
        return self.scores[0] < self.scores[-1]

    @property
    def thresholds(self) -> dict[str, float]:
        """The scores that win each medal, and the median score."""
        n = len(self.scores)
        return {
            **{medal: self.scores[rank - 1] for medal, rank in zip(MEDALS, _places(n), strict=True)},
            "median": median(self.scores),
        }

    def standing(self, score: float) -> dict[str, object]:
        """Return the best medal whose threshold the score reaches, and whether it is above the median."""
        sign = -1 if self.lower_is_better else 1
        reached = [medal for medal in MEDALS if sign * score >= sign * self.thresholds[medal]]
        return {
            "medal": reached[0] if reached else None,
            "above_median": sign * score > sign * self.thresholds["median"],
            "thresholds": self.thresholds,
            "teams": len(self.scores),
        }


def _places(teams: int) -> tuple[int, int, int]:
    """Return the last ranks that win gold, silver and bronze."""
    tenth, fifth, two_fifths = (max(1, int(teams * share)) for share in (0.1, 0.2, 0.4))
    if teams < 100:
        return tenth, fifth, two_fifths
    if teams < 250:
        return 10, fifth, two_fifths
    if teams < 1000:
        return 10 + int(teams * 0.002), 50, 100
    return 10 + int(teams * 0.002), max(1, int(teams * 0.05)), tenth


def read_leaderboard(candidates: Sequence[Path]) -> Leaderboard | None:
    """Read the first file that holds scores; None where none does.

    The package's own files may be git-lfs pointers, which hold no scores.
    """
    for path in candidates:
        if path.is_file():
            with path.open(encoding="utf-8-sig", newline="") as stream:
                rows = csv.DictReader(stream)
                if "score" in (rows.fieldnames or []):
                    scores = [float(row["score"]) for row in rows if row["score"]]
                    if scores:
                        return Leaderboard(scores)
    return None
