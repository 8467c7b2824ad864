"""Collects what may be shown of a scored candidate: all of its dev questions, and one aggregate of val.

Writes failures.jsonl and confusion.md.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sia_runner.experiment.context import RunContext
from sia_runner.experiment.execution import harness_saw_val_labels
from sia_runner.records import Json, Outcome, OutcomeKind, PastGeneration, Score, count_kinds
from sia_runner.selection.sampling import confusion_strata, stratified_order
from sia_runner.store.run_directory import HarnessRunDir, read_json, read_outcomes, write_text
from sia_runner.tasks.protocol import Task
from sia_runner.text import strip_control_characters, table_cell


@dataclass(frozen=True, slots=True)
class DevFailure:
    """A dev question that was not fully correct.

    `content` is what a proposer reads: question, prediction, gold, kind.
    """

    unit: str
    content: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class CandidateEvidence:
    """A scored candidate as evidence.

    `taught_val`: see verdicts.py; long texts that it made must then be withheld. `calls`: its dev questions, by the
    file in which their model calls were recorded.
    """

    n: int
    val: Score | None
    dev: Sequence[Outcome]
    dev_score: Score | None
    failures: Sequence[DevFailure]
    taught_val: bool
    log: Path
    calls: Mapping[Path, Mapping[str, str]]  # trajectories.jsonl -> id in the view -> dev unit

    @staticmethod
    def of(context: RunContext, n: int, history: Sequence[PastGeneration]) -> "CandidateEvidence":
        """Read the candidate of generation `n`."""
        task, run = context.task, context.run
        dev_units, saw_labels = set(task.splits()["dev"]), harness_saw_val_labels(task)
        dev = [outcome for outcome in read_outcomes(run.generation(n).scores) if outcome.unit in dev_units]
        harness_runs = run.generation(n).harness_runs(len(task.rounds("select")))
        return CandidateEvidence(
            n,
            next((past.val for past in history if past.n == n), None),
            dev,
            task.score(dev) if dev else None,
            _dev_failures(task, dev, saw_labels),
            saw_labels,
            harness_runs[0].log,
            {}
            if saw_labels
            else {site.trajectories: _dev_questions(site, dev_units) for site in harness_runs if _has_calls(site)},
        )

    def to_json(self) -> Json:
        """Return the candidate's entry of summary.json."""
        return {
            "generation": self.n,
            "val": self.val.to_json() if self.val else None,
            "dev": self.dev_score.to_json() if self.dev_score else None,
            "outcomes": count_kinds(self.dev),
        }


def _dev_failures(task: Task, dev: Sequence[Outcome], saw_labels: bool) -> list[DevFailure]:
    """Return failures one by one, so that the unit of each is known; the unit is not shown."""
    visible = [(outcome.unit, content) for outcome in dev for content in task.failures([outcome], 1)]
    # No longer than the longest answer: a label fits, a list of what was learned from val does not.
    limit = max((len(content["gold"]) for _, content in visible), default=0) if saw_labels else None
    return [
        DevFailure(unit, content | {"prediction": strip_control_characters(content["prediction"])[:limit]})
        for unit, content in visible
    ]


def _has_calls(site: HarnessRunDir) -> bool:
    return site.trajectories.is_file() and site.keys.is_file()


def _dev_questions(site: HarnessRunDir, dev_units: set[str]) -> dict[str, str]:
    return {name: unit for name, unit in read_json(site.keys).items() if unit in dev_units}


_MAX_PAIRS = 50


def confused_pairs(failures: Sequence[DevFailure]) -> list[Json]:
    """Return gold, predicted and count of wrong answers that occurred at least twice, most frequent first."""
    wrong = [failure.content for failure in failures if failure.content["kind"] == OutcomeKind.WRONG]
    counts = Counter((content["gold"], content["prediction"]) for content in wrong)
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return [
        {"gold": gold, "predicted": predicted, "count": count}
        for (gold, predicted), count in ranked[:_MAX_PAIRS]
        if count > 1
    ]


def render_confusion(candidate: CandidateEvidence) -> str:
    """Return confusion.md as text."""
    kinds = count_kinds(candidate.dev)
    lines = [f"# How the dev questions of generation {candidate.n} ended", "", "| outcome | questions | share |"]
    lines += ["| --- | ---: | ---: |"]
    lines += [f"| {kind} | {count} | {count / len(candidate.dev):.1%} |" for kind, count in kinds.items()]
    lines += ["", "# Most frequent confusions", ""]
    confused = confused_pairs(candidate.failures)
    if not confused:
        return "\n".join([*lines, "No wrong answer occurred twice for the same gold answer.", ""])
    lines += ["| gold | predicted | questions |", "| --- | --- | ---: |"]
    lines += [
        f"| {table_cell(pair['gold'])} | {table_cell(pair['predicted'])} | {pair['count']} |" for pair in confused
    ]
    return "\n".join([*lines, ""])


def choose_failures(candidate: CandidateEvidence, limit: int, most_bytes: int) -> list[DevFailure]:
    """Return at most `limit` failures of at most `most_bytes` in total, the most representative first."""
    stratum = confusion_strata([failure.content for failure in candidate.failures])
    selection: list[DevFailure] = []
    remaining = most_bytes
    for failure in stratified_order(candidate.failures, lambda failure: stratum(failure.content)):
        size = _line_bytes(failure)
        if len(selection) < limit and size <= remaining:
            selection.append(failure)
            remaining -= size
    return selection


def failures_size(failures: Sequence[DevFailure]) -> int:
    """Return the bytes of these failures in failures.jsonl."""
    return sum(map(_line_bytes, failures))


def write_failures(failures: Sequence[DevFailure], trajectories: Mapping[str, int], path: Path) -> None:
    """Write one JSON object a line. `trajectories` maps a unit to the number of its file in trajectories/."""
    write_text(path, "".join(_failure_line(failure, trajectories.get(failure.unit)) for failure in failures))


def _failure_line(failure: DevFailure, trajectory: int | None) -> str:
    """Return one line of JSON; U+2028 and similar are escaped, so that every reader sees one line."""
    content = failure.content if trajectory is None else {**failure.content, "trajectory": trajectory}
    text = json.dumps(content, ensure_ascii=False)
    for end in "\x85\u2028\u2029":
        text = text.replace(end, f"\\u{ord(end):04x}")
    return text + "\n"


def _line_bytes(failure: DevFailure) -> int:
    return len(_failure_line(failure, 10**4).encode(errors="backslashreplace"))
