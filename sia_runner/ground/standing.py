"""Lines for people place a test result on a leaderboard: the official grader's score, the medal."""

from collections.abc import Mapping
from typing import Any


def standing_lines(standing: Mapping[str, Any] | None) -> list[str]:
    """Return the lines for `standing` of a test result (see Task.standing); none if the task has none."""
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
    medal = f"{standing['medal']} medal" if standing["medal"] else "no medal"
    position = "above" if standing["above_median"] else "not above"
    marks = ", ".join(f"{name} {value:.5f}" for name, value in standing["thresholds"].items())
    return f"{medal}, {position} the median of {standing['teams']:,} teams ({marks})"
