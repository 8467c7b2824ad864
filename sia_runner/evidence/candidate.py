"""What may be told of one scored candidate: everything of its dev questions, one figure of its val questions."""

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
    """A dev question that was not fully correct. `shown` is what a proposer reads: question, prediction, gold, kind."""

    unit: str
    shown: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Candidate:
    """`taught_val`: see verdicts.py; no text of its own making may then be passed on at length. `calls`: its dev
    questions, by the file in which their model calls were recorded."""

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
        task = rooms(config).task
        dev_units, taught = set(task.splits()["dev"]), taught_val(task)
        dev = [outcome for outcome in _outcomes(run, n) if outcome.unit in dev_units]
        sites = run.generation(n).sites(len(task.rounds("select")))
        return Candidate(
            n,
            next((past.val for past in history if past.n == n), None),
            dev,
            task.score(dev) if dev else None,
            _failures(task, dev, taught),
            taught,
            sites[0].log,
            {} if taught else {site.trajectories: _asked(site, dev_units) for site in sites if _called(site)},
        )

    def as_json(self) -> dict[str, Any]:
        return {
            "generation": self.n,
            "val": self.val.as_json() if self.val else None,
            "dev": self.dev_score.as_json() if self.dev_score else None,
            "outcomes": count_kinds(self.dev),
        }


def _outcomes(run: RunDir, n: int) -> list[Outcome]:
    rows = read_json(run.generation(n).scores)["outcomes"]
    return [Outcome(row["unit"], OutcomeKind(row["kind"]), row["value"], row["prediction"]) for row in rows]


def _failures(task: Task, dev: Sequence[Outcome], taught: bool) -> list[Failure]:
    """One by one, so that each is known by its unit, which is not shown."""
    told = [(outcome.unit, shown) for outcome in dev for shown in task.failures([outcome], 1)]
    # No longer than the longest answer: a label fits, a list of what was learned from val does not.
    most = max((len(shown["gold"]) for _, shown in told), default=0) if taught else None
    return [Failure(unit, shown | {"prediction": plain(shown["prediction"])[:most]}) for unit, shown in told]


def _called(site: Site) -> bool:
    return site.trajectories.is_file() and site.keys.is_file()


def _asked(site: Site, dev_units: set[str]) -> dict[str, str]:
    return {name: unit for name, unit in read_json(site.keys).items() if unit in dev_units}
