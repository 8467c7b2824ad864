"""Collects what may be shown of a scored candidate: all of its dev questions, and one aggregate of val."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sia_runner.candidate.verdicts import taught_val
from sia_runner.config import Experiment
from sia_runner.ground.plaintext import plain
from sia_runner.records import Outcome, OutcomeKind, Past, Score, count_kinds
from sia_runner.rooms import rooms
from sia_runner.rundir import RunDir, Site, read_json
from sia_runner.tasks.protocol import Task


@dataclass(frozen=True, slots=True)
class Failure:
    """A dev question that was not fully correct.

    `content` is what a proposer reads: question, prediction, gold, kind.
    """

    unit: str
    content: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Candidate:
    """A scored candidate as evidence.

    `taught_val`: see verdicts.py; long texts that it made must then be withheld. `calls`: its dev questions, by the
    file in which their model calls were recorded.
    """

    n: int
    val: Score | None
    dev: Sequence[Outcome]
    dev_score: Score | None
    failures: Sequence[Failure]
    taught_val: bool
    log: Path
    calls: Mapping[Path, Mapping[str, str]]  # trajectories.jsonl -> id in the view -> dev unit

    @staticmethod
    def of(config: Experiment, run: RunDir, n: int, history: Sequence[Past]) -> "Candidate":
        """Read the candidate of generation `n`."""
        task = rooms(config).task
        dev_units, saw_labels = set(task.splits()["dev"]), taught_val(task)
        dev = [outcome for outcome in _outcomes(run, n) if outcome.unit in dev_units]
        sites = run.generation(n).sites(len(task.rounds("select")))
        return Candidate(
            n,
            next((past.val for past in history if past.n == n), None),
            dev,
            task.score(dev) if dev else None,
            _failures(task, dev, saw_labels),
            saw_labels,
            sites[0].log,
            {} if saw_labels else {site.trajectories: _asked(site, dev_units) for site in sites if _called(site)},
        )

    def as_json(self) -> dict[str, Any]:
        """Return the candidate's entry of summary.json."""
        return {
            "generation": self.n,
            "val": self.val.as_json() if self.val else None,
            "dev": self.dev_score.as_json() if self.dev_score else None,
            "outcomes": count_kinds(self.dev),
        }


def _outcomes(run: RunDir, n: int) -> list[Outcome]:
    rows = read_json(run.generation(n).scores)["outcomes"]
    return [Outcome(row["unit"], OutcomeKind(row["kind"]), row["value"], row["prediction"]) for row in rows]


def _failures(task: Task, dev: Sequence[Outcome], saw_labels: bool) -> list[Failure]:
    """Return failures one by one, so that the unit of each is known; the unit is not shown."""
    visible = [(outcome.unit, content) for outcome in dev for content in task.failures([outcome], 1)]
    # No longer than the longest answer: a label fits, a list of what was learned from val does not.
    limit = max((len(content["gold"]) for _, content in visible), default=0) if saw_labels else None
    return [Failure(unit, content | {"prediction": plain(content["prediction"])[:limit]}) for unit, content in visible]


def _called(site: Site) -> bool:
    return site.trajectories.is_file() and site.keys.is_file()


def _asked(site: Site, dev_units: set[str]) -> dict[str, str]:
    return {name: unit for name, unit in read_json(site.keys).items() if unit in dev_units}
