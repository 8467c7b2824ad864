"""Turn a stored submission into outcomes: the verifier's results, corrected by the calls that the gateway saw fail."""

from collections.abc import Sequence

from sia_runner.candidate import chamber
from sia_runner.config import Experiment
from sia_runner.ground.faults import fault_outcomes
from sia_runner.records import Faults, Outcome, OutcomeKind
from sia_runner.rooms import rooms
from sia_runner.rundir import Site, read_json
from sia_runner.tasks.protocol import Purpose, Task

PURPOSES: tuple[Purpose, ...] = ("gate", "trial", "select")


def verified(config: Experiment, site: Site, unanswered: OutcomeKind) -> list[Outcome]:
    """Return one outcome per question asked at `site`.

    `unanswered`: the kind of questions without answer.
    """
    keys = read_json(site.keys)
    task = rooms(config).task
    outcomes = task.verify(site.submission, keys, unanswered, chamber.command(config) if task.executes else ())
    if not site.faults.is_file():
        return outcomes
    return fault_outcomes(outcomes, Faults.from_json(read_json(site.faults)), keys)


def of_split(config: Experiment, outcomes: Sequence[Outcome], split: str) -> list[Outcome]:
    """Return the outcomes of questions of one split."""
    units = set(rooms(config).task.splits()[split])
    return [outcome for outcome in outcomes if outcome.unit in units]


def taught_val(task: Task) -> bool:
    """Tell whether a harness learns gold answers of val before the final test, as with cross-fitting.

    It can then print them, and nothing it prints may reach a proposer.
    """
    secret = {*task.splits()["val"], *task.splits()["test"]}
    return any(secret.intersection(round_.train) for purpose in PURPOSES for round_ in task.rounds(purpose))
