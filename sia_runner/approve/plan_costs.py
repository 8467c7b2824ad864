"""What a lever will probably cost, by what this run has measured so far; what was not measured is said, not guessed."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from math import ceil
from typing import Any

from sia_runner.config import Experiment
from sia_runner.ground.history import Finished
from sia_runner.models.totals import Totals, read
from sia_runner.records import Lever
from sia_runner.rooms import rooms
from sia_runner.rundir import RunDir
from sia_runner.schema.training import Algorithm
from sia_runner.tasks.protocol import Round
from sia_runner.training.protocol import TrainingError


@dataclass(frozen=True, slots=True)
class Each:
    """Of one question that a harness is run on. `usd` is None where some call's price is not known."""

    calls: float
    tokens: float
    usd: float | None
    seconds: float
    source: str  # where it was measured
    start: float = 0.0  # seconds that each run of the harness takes beside its questions


@dataclass(frozen=True, slots=True)
class Part:
    """One part of the work. None: not known."""

    name: str
    sandbox_runs: int | None
    questions: int | None  # over all runs
    calls: int | None
    tokens: int | None
    usd: float | None
    minutes: float | None
    source: str

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def parts(
    config: Experiment,
    run: RunDir,
    proposal: Mapping[str, Any],
    evidence: Mapping[str, Any],
    before: Sequence[Finished],
) -> list[Part]:
    """The training, where weights are a lever; then the gate and the run on dev and val, which every candidate has."""
    spent, task = read(run.ledger), rooms(config).task
    scored = _like(before, evidence["parent"])
    gate, select = task.rounds("gate"), task.rounds("select")
    each = _scored(spent, scored, gate, select) if scored else None
    found: list[Part] = []
    if proposal["lever"] in (Lever.WEIGHTS, Lever.BOTH):
        algorithm = Algorithm.model_validate(proposal["overrides"])
        found.append(_training(algorithm, _probed(evidence) or each, _trained(spent, before)))
    return [*found, _part("gate and run", len(gate) + len(select), _asked(gate) + _asked(select), each)]


def _asked(rounds: Sequence[Round]) -> int:
    return sum(len(round_.questions) for round_ in rounds)


def _like(before: Sequence[Finished], parent: int | None) -> Finished | None:
    """The parent, or else the newest candidate that was scored: the next one probably spends what it spent."""
    scored = [generation for generation in before if generation.val is not None]
    return next((g for g in scored if g.n == parent), scored[-1] if scored else None)


def _scored(spent: Totals, one: Finished, gate: Sequence[Round], select: Sequence[Round]) -> Each:
    """What it took on dev and val. A gate asks so little that its time is that of starting."""
    row, questions = spent.of(candidate=f"gen_{one.n}", purpose="select"), _asked(select)
    usd = row.dollars / questions if row.priced else None
    tokens = row.input_tokens + row.output_tokens
    start = min(one.seconds["gate"] / max(1, len(gate)), one.seconds["run"] / len(select))
    seconds = (one.seconds["run"] - start * len(select)) / questions
    source = f"generation {one.n} on {questions} questions"
    return Each(row.calls / questions, tokens / questions, usd, seconds, source, start)


def _probed(evidence: Mapping[str, Any]) -> Each | None:
    """The probe that chose the algorithm. The policy is this machine's own: its calls cost no dollars."""
    shape = evidence.get("shape")
    if not shape or not shape["n"]:
        return None
    return Each(shape["calls"], shape["tokens"], 0.0, shape["seconds"], f"the probe's {shape['n']} rollouts")


def _trained(spent: Totals, before: Sequence[Finished]) -> Each | None:
    """The newest update of this run: rollouts and optimizer together."""
    updates = [one for one in before if one.steps.get("build", {}).get("steps")]
    if not updates:
        return None
    built, row = updates[-1].steps["build"], spent.of(candidate=f"gen_{updates[-1].n}", purpose="rollout")
    algorithm = Algorithm.model_validate(built["algorithm"])
    whole = rolls(algorithm) * algorithm.samples * questions_per_roll(algorithm, rolls(algorithm))
    rollouts = whole * built["steps"] / algorithm.steps
    tokens, source = row.input_tokens + row.output_tokens, f"the update of generation {updates[-1].n}"
    usd = row.dollars / rollouts if row.priced else None
    return Each(row.calls / rollouts, tokens / rollouts, usd, built["seconds"] / rollouts, source)


def _training(algorithm: Algorithm, rolled: Each | None, trained: Each | None) -> Part:
    try:
        times = rolls(algorithm)
    except TrainingError as error:
        return Part("training", None, None, None, None, None, None, str(error))
    runs, per_run = times * algorithm.samples, questions_per_roll(algorithm, times)
    if trained:
        return _part("training", runs, runs * per_run, trained)
    part = _part("training", runs, runs * per_run, rolled)
    return part if rolled is None else Part(**{**asdict(part), "source": f"{part.source}; time of the rollouts alone"})


def rolls(algorithm: Algorithm) -> int:
    """How often questions are rolled out in one update. Raises TrainingError for options that the algorithm refuses."""
    from sia_runner.training import algorithms

    if algorithm.kind == "online":
        return ceil(algorithm.steps / algorithms.online(algorithm).loss.iterations)
    return algorithms.offline(algorithm).rounds


def questions_per_roll(algorithm: Algorithm, times: int) -> int:
    return algorithm.questions if algorithm.kind == "online" else ceil(algorithm.questions / times)


def _part(name: str, runs: int, questions: int, each: Each | None) -> Part:
    if each is None:
        return Part(name, runs, questions, None, None, None, None, "nothing was measured in this run yet")
    return Part(
        name,
        runs,
        questions,
        round(each.calls * questions),
        round(each.tokens * questions),
        None if each.usd is None else round(each.usd * questions, 4),
        round((each.start * runs + each.seconds * questions) / 60, 2),
        each.source,
    )
