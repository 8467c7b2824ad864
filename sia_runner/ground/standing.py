"""How a test result stands among others, in a line for people: an official grader's score, a leaderboard's medal."""

from collections.abc import Mapping
from typing import Any


def standing_lines(standing: Mapping[str, Any] | None) -> list[str]:
    """Of `standing` in a test result (see Task.standing); none where the task has none."""
    if not standing:
        return []
    grader = "mlebench's grader" if standing["graded_by"] == "mlebench" else "our own grader"
    if standing["score"] is None:
        return [standing["note"]]
    line = f"{grader}: {standing['score']:.5f}; {_medal(standing)}"
    return [line, standing["note"]] if standing["note"] else [line]


def _medal(standing: Mapping[str, Any]) -> str:
    if "medal" not in standing:
        return "no leaderboard is at hand, so no medal"
    won = f"{standing['medal']} medal" if standing["medal"] else "no medal"
    side = "above" if standing["above_median"] else "not above"
    marks = ", ".join(f"{name} {value:.5f}" for name, value in standing["thresholds"].items())
    return f"{won}, {side} the median of {standing['teams']:,} teams ({marks})"
