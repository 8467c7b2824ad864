"""Which answers were taken for which, and how questions ended: a table each."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from sia_runner.evidence.candidate import Candidate, Failure
from sia_runner.ground.plaintext import cell
from sia_runner.records import OutcomeKind, count_kinds

_MOST = 50


def pairs(failures: Sequence[Failure]) -> list[dict[str, Any]]:
    """What was wrong at least twice in the same way, the most frequent first: gold, predicted, count."""
    wrong = [failure.shown for failure in failures if failure.shown["kind"] == OutcomeKind.WRONG]
    counts = Counter((shown["gold"], shown["prediction"]) for shown in wrong)
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return [
        {"gold": gold, "predicted": predicted, "count": count}
        for (gold, predicted), count in ranked[:_MOST]
        if count > 1
    ]


def render(about: Candidate) -> str:
    kinds = count_kinds(about.dev)
    lines = [f"# How the dev questions of generation {about.n} ended", "", "| outcome | questions | share |"]
    lines += ["| --- | ---: | ---: |"]
    lines += [f"| {kind} | {count} | {count / len(about.dev):.1%} |" for kind, count in kinds.items()]
    lines += ["", "# Most frequent confusions", ""]
    confused = pairs(about.failures)
    if not confused:
        return "\n".join([*lines, "No wrong answer occurred twice for the same gold answer.", ""])
    lines += ["| gold | predicted | questions |", "| --- | --- | ---: |"]
    lines += [f"| {cell(pair['gold'])} | {cell(pair['predicted'])} | {pair['count']} |" for pair in confused]
    return "\n".join([*lines, ""])
