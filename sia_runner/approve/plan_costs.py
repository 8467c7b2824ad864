"""Estimates what a lever will cost from what this run has measured; unmeasured figures are None, never guessed."""

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
    """The cost of one question that a harness runs on. `usd` is None where the price of a call is not known."""

    calls: float
    tokens: float
    usd: float | None
    seconds: float
    source: str  # where it was measured
    start: float = 0.0  # seconds that each run of the harness takes beside its questions


@dataclass(frozen=True, slots=True)
class Part:
    """The estimated cost of one part of the work; None means not known."""

    name: str
    sandbox_runs: int | None
    questions: int | None  # over all runs
    calls: int | None
    tokens: int | None
    usd: float | None
    minutes: float | None
    source: str

    def as_json(self) -> dict[str, Any]:
        """Return the JSON of plan.json."""
        return asdict(self)


def parts(
    config: Experiment,
    run: RunDir,
    proposal: Mapping[str, Any],
    evidence: Mapping[str, Any],
    before: Sequence[Finished],
) -> list[Part]:
    """Return the cost of training, where weights are a lever, and of the gate and run of every candidate."""
    totals, task = read(run.ledger), rooms(config).task
    scored = _like(before, evidence["parent"])
    gate, select = task.rounds("gate"), task.rounds("select")
    per_question = _scored(totals, scored, gate, select) if scored else None
    costs: list[Part] = []
    if proposal["lever"] in (Lever.WEIGHTS, Lever.BOTH):
        algorithm = Algorithm.model_validate(proposal["overrides"])
        costs.append(_training(algorithm, _probed(evidence) or per_question, _trained(totals, before)))
    return [*costs, _part("gate and run", len(gate) + len(select), _asked(gate) + _asked(select), per_question)]


def _asked(folds: Sequence[Round]) -> int:
    return sum(len(fold.questions) for fold in folds)


def _like(before: Sequence[Finished], parent: int | None) -> Finished | None:
    """Return the parent, else the newest scored candidate: the next one probably costs the same."""
    scored = [generation for generation in before if generation.val is not None]
    return next((g for g in scored if g.n == parent), scored[-1] if scored else None)


def _scored(totals: Totals, candidate: Finished, gate: Sequence[Round], select: Sequence[Round]) -> Each:
    """Return the cost of a scored candidate on dev and val. A gate is so short that its time is startup time."""
    row, questions = totals.of(candidate=f"gen_{candidate.n}", purpose="select"), _asked(select)
    usd = row.dollars / questions if row.priced else None
    tokens = row.input_tokens + row.output_tokens
    start = min(candidate.seconds["gate"] / max(1, len(gate)), candidate.seconds["run"] / len(select))
    seconds = (candidate.seconds["run"] - start * len(select)) / questions
    source = f"generation {candidate.n} on {questions} questions"
    return Each(row.calls / questions, tokens / questions, usd, seconds, source, start)


def _probed(evidence: Mapping[str, Any]) -> Each | None:
    """Return the cost of the probe that chose the algorithm. The policy runs locally: its calls cost no dollars."""
    shape = evidence.get("shape")
    if not shape or not shape["n"]:
        return None
    return Each(shape["calls"], shape["tokens"], 0.0, shape["seconds"], f"the probe's {shape['n']} rollouts")


def _trained(totals: Totals, before: Sequence[Finished]) -> Each | None:
    """Return the cost of this run's newest update, rollouts and optimizer together."""
    updates = [generation for generation in before if generation.steps.get("build", {}).get("steps")]
    if not updates:
        return None
    built, row = updates[-1].steps["build"], totals.of(candidate=f"gen_{updates[-1].n}", purpose="rollout")
    algorithm = Algorithm.model_validate(built["algorithm"])
    planned = rolls(algorithm) * algorithm.samples * questions_per_roll(algorithm, rolls(algorithm))
    rollouts = planned * built["steps"] / algorithm.steps
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
    """Return the number of rollout batches of one update.

    Raises TrainingError for options that the algorithm refuses.
    """
    from sia_runner.training import algorithms

    if algorithm.kind == "online":
        return ceil(algorithm.steps / algorithms.online(algorithm).loss.iterations)
    return algorithms.offline(algorithm).rounds


def questions_per_roll(algorithm: Algorithm, times: int) -> int:
    """Return the number of questions in one of `times` rollout batches."""
    return algorithm.questions if algorithm.kind == "online" else ceil(algorithm.questions / times)


def _part(name: str, runs: int, questions: int, per_question: Each | None) -> Part:
    if per_question is None:
        return Part(name, runs, questions, None, None, None, None, "nothing was measured in this run yet")
    return Part(
        name,
        runs,
        questions,
        round(per_question.calls * questions),
        round(per_question.tokens * questions),
        None if per_question.usd is None else round(per_question.usd * questions, 4),
        round((per_question.start * runs + per_question.seconds * questions) / 60, 2),
        per_question.source,
    )
