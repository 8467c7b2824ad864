"""Collects what may be shown of a scored candidate: all of its dev questions, and one aggregate of val."""

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sia_runner.experiment.context import RunContext
from sia_runner.experiment.execution import harness_saw_val_labels, outcomes_of_split, score_outcomes
from sia_runner.records import Json, Outcome, OutcomeKind, PastGeneration, Score, count_kinds
from sia_runner.store.run_directory import read_json, read_outcomes, write_text
from sia_runner.tasks.protocol import Task
from sia_runner.tasks.splits import confusion_strata, stratified_order
from sia_runner.text import strip_control_characters, table_cell

_MAX_PAIRS = 50


@dataclass(frozen=True, slots=True)
class DevFailure:
    """A dev question that was not fully correct, and what a proposer reads: question, prediction, gold, kind."""

    unit: str
    content: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class CandidateEvidence:
    """A scored candidate as evidence."""

    n: int
    val: Score | None
    dev: Sequence[Outcome]
    dev_score: Score | None
    failures: Sequence[DevFailure]
    higher_is_better: bool
    saw_val_labels: bool  # long texts that it made must be withheld
    log: Path
    calls: Mapping[Path, Mapping[str, str]]  # trajectories.jsonl -> id in the view -> dev unit

    @staticmethod
    def of(context: RunContext, n: int, history: Sequence[PastGeneration]) -> "CandidateEvidence":
        """Read the candidate of generation `n`."""
        task, generation = context.task, context.run.generation(n)
        saw_labels, dev_units = harness_saw_val_labels(task), set(task.splits()["dev"])
        dev = outcomes_of_split(context, read_outcomes(generation.scores), "dev")
        # one by one, so that the unit of each is known; it is not shown
        visible = [(outcome.unit, content) for outcome in dev for content in task.failures([outcome], 1)]
        limit = longest_prediction(task, [content for _, content in visible])
        harness_runs = generation.harness_runs(len(task.rounds("select")))
        return CandidateEvidence(
            n=n,
            val=next((past.val for past in history if past.n == n), None),
            dev=dev,
            dev_score=score_outcomes(task, dev)[0] if dev else None,
            failures=[
                DevFailure(unit, content | {"prediction": strip_control_characters(content["prediction"])[:limit]})
                for unit, content in visible
            ],
            higher_is_better=task.higher_is_better,
            saw_val_labels=saw_labels,
            log=harness_runs[0].log,
            calls={
                site.trajectories: {name: unit for name, unit in read_json(site.keys).items() if unit in dev_units}
                for site in harness_runs
                if not saw_labels and site.trajectories.is_file() and site.keys.is_file()
            },
        )

    def to_json(self) -> Json:
        """Return the candidate's entry of summary.json."""
        return {
            "generation": self.n,
            "val": self.val.to_json() if self.val else None,
            "dev": self.dev_score.to_json() if self.dev_score else None,
            "outcomes": count_kinds(self.dev),
        }


def longest_prediction(task: Task, failures: Sequence[Mapping[str, Any]]) -> int | None:
    """Return how many characters of a prediction a proposer may read; None: all.

    Of a harness that was told labels of val as many as the longest answer has: a list of what it learned does not fit.
    """
    return max((len(each["gold"]) for each in failures), default=0) if harness_saw_val_labels(task) else None


def confused_pairs(failures: Sequence[DevFailure]) -> list[Json]:
    """Return gold, predicted and count of wrong answers that occurred at least twice, most frequent first."""
    wrong = [failure.content for failure in failures if failure.content["kind"] == OutcomeKind.WRONG]
    counts = Counter((content["gold"], content["prediction"]) for content in wrong)
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:_MAX_PAIRS]
    return [{"gold": pair[0], "predicted": pair[1], "count": count} for pair, count in ranked if count > 1]


def render_confusion(candidate: CandidateEvidence) -> str:
    """Return confusion.md as text."""
    kinds = count_kinds(candidate.dev)
    lines = [f"# How the dev questions of generation {candidate.n} ended", ""]
    lines += ["| outcome | questions | share |", "| --- | ---: | ---: |"]
    lines += [f"| {kind} | {count} | {count / len(candidate.dev):.1%} |" for kind, count in kinds.items()]
    rows = [
        f"| {table_cell(pair['gold'])} | {table_cell(pair['predicted'])} | {pair['count']} |"
        for pair in confused_pairs(candidate.failures)
    ]
    confusions = ["| gold | predicted | questions |", "| --- | --- | ---: |", *rows]
    none = ["No wrong answer occurred twice for the same gold answer."]
    return "\n".join([*lines, "", "# Most frequent confusions", "", *(confusions if rows else none), ""])


def choose_failures(candidate: CandidateEvidence, limit: int, most_bytes: int) -> tuple[list[DevFailure], int]:
    """Return at most `limit` failures, the most representative first, and their size: at most `most_bytes`."""
    stratum = confusion_strata([failure.content for failure in candidate.failures])
    selection, used = list[DevFailure](), 0
    for failure in stratified_order(candidate.failures, lambda failure: stratum(failure.content)):
        size = len(_failure_line(failure, 10**4).encode(errors="backslashreplace"))
        if len(selection) < limit and used + size <= most_bytes:
            selection.append(failure)
            used += size
    return selection, used


def write_failures(failures: Sequence[DevFailure], trajectories: Mapping[str, int], path: Path) -> None:
    """Write one JSON object a line. `trajectories` maps a unit to the number of its file in trajectories/."""
    lines = [_failure_line(failure, trajectories.get(failure.unit)) for failure in failures]
    write_text(path, "".join(lines), durable=False)


def _failure_line(failure: DevFailure, trajectory: int | None) -> str:
    """Return one line of JSON; U+2028 and similar are escaped, so that every reader sees one line."""
    content = failure.content if trajectory is None else {**failure.content, "trajectory": trajectory}
    text = json.dumps(content, ensure_ascii=False)
    return re.sub("[\x85\u2028\u2029]", lambda end: f"\\u{ord(end[0]):04x}", text) + "\n"
