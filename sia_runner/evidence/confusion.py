"""Writes confusion.md: outcomes of the dev questions, and which answers were taken for which."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from sia_runner.evidence.candidate import Candidate, Failure
from sia_runner.ground.plaintext import cell
from sia_runner.records import OutcomeKind, count_kinds

_MOST = 50


def pairs(failures: Sequence[Failure]) -> list[dict[str, Any]]:
    """Return gold, predicted and count of wrong answers that occurred at least twice, most frequent first."""
    wrong = [failure.content for failure in failures if failure.content["kind"] == OutcomeKind.WRONG]
    counts = Counter((content["gold"], content["prediction"]) for content in wrong)
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return [
        {"gold": gold, "predicted": predicted, "count": count}
        for (gold, predicted), count in ranked[:_MOST]
        if count > 1
    ]


def render(candidate: Candidate) -> str:
    """Return confusion.md as text."""
    kinds = count_kinds(candidate.dev)
    lines = [f"# How the dev questions of generation {candidate.n} ended", "", "| outcome | questions | share |"]
    lines += ["| --- | ---: | ---: |"]
    lines += [f"| {kind} | {count} | {count / len(candidate.dev):.1%} |" for kind, count in kinds.items()]
    lines += ["", "# Most frequent confusions", ""]
    confused = pairs(candidate.failures)
    if not confused:
        return "\n".join([*lines, "No wrong answer occurred twice for the same gold answer.", ""])
    lines += ["| gold | predicted | questions |", "| --- | --- | ---: |"]
    lines += [f"| {cell(pair['gold'])} | {cell(pair['predicted'])} | {pair['count']} |" for pair in confused]
    return "\n".join([*lines, ""])
