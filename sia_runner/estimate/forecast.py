"""A forecast of a run's calls, tokens and seconds under three sets of assumptions. It calls no model."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import ceil
from typing import Any

from sia_runner.config import Experiment
from sia_runner.schema.provider import Hosted

_BYTES_PER_TOKEN = 4  # of English; other scripts take more
_KB = 1024


@dataclass(frozen=True, slots=True)
class Case:
    """A set of assumptions, in tokens, seconds, and shares of what the configuration allows."""

    calls: int  # of a harness per question
    prompt: int  # tokens that a harness adds to a question
    answer: int  # tokens of one answer to a question, thinking included
    turns: float  # share of meta_agent.turns that a proposal takes
    context: float  # share of meta_agent.context_kb that a proposer's request has on average
    guest_context: int  # tokens of a guest agent's average request
    written: int  # tokens of one answer of a proposer, thinking included
    trials: float  # share of meta_agent.trials that a proposal makes
    again: float  # attempts per call beyond the first
    at_once: int  # calls that a harness makes at the same time, at most
    wait: float  # seconds before the first token
    speed: float  # tokens per second


CASES: Mapping[str, Case] = {
    "low": Case(1, 100, 150, 0.2, 0.1, 8_000, 300, 0.2, 0.0, 16, 0.5, 120),
    "expected": Case(1, 400, 1_000, 0.5, 0.35, 30_000, 800, 0.5, 0.02, 8, 1.5, 60),
    "high": Case(3, 2_000, 4_000, 1.0, 1.0, 100_000, 2_500, 1.0, 0.1, 1, 5.0, 25),
}


@dataclass(frozen=True, slots=True)
class Sizes:
    """The number of questions of each run of a harness, and the average size of one in bytes."""

    gate: int
    trial: int  # all dev questions
    select: int
    rounds: int  # runs that `select` takes
    test: int
    question_bytes: int


@dataclass(slots=True)
class Spent:
    """An amount of model use: calls, tokens and seconds of waiting."""

    calls: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    seconds: float = 0.0

    def plus(self, other: "Spent") -> "Spent":
        """Return the sum with another amount."""
        return Spent(
            self.calls + other.calls,
            self.input_tokens + other.input_tokens,
            self.output_tokens + other.output_tokens,
            self.seconds + other.seconds,
        )

    def times(self, factor: int) -> "Spent":
        """Return the amount multiplied by `factor`."""
        return Spent(
            self.calls * factor, self.input_tokens * factor, self.output_tokens * factor, self.seconds * factor
        )

    @property
    def tokens(self) -> int:
        """The input and output tokens together."""
        return self.input_tokens + self.output_tokens


@dataclass(frozen=True, slots=True)
class Forecast:
    """The forecast of one case. The meta role does the proposing.

    `parts` maps each purpose to the amount of one generation; `test` is the amount of the final test.
    """

    generations: int
    parts: Mapping[str, Spent] = field(default_factory=dict)
    test: Spent = field(default_factory=Spent)

    @property
    def generation(self) -> Spent:
        """The amount of one generation."""
        return _sum(self.parts.values())

    @property
    def meta(self) -> Spent:
        """The amount of the proposer over the whole run."""
        return self.parts["propose"].times(self.generations)

    @property
    def target(self) -> Spent:
        """The amount of the harnesses over the whole run."""
        harness = _sum(part for name, part in self.parts.items() if name != "propose")
        return harness.times(self.generations).plus(self.test)

    @property
    def total(self) -> Spent:
        """The amount of the whole run."""
        return self.meta.plus(self.target)


def forecast(config: Experiment, sizes: Sizes, name: str) -> Forecast:
    """Return the forecast of the case called `name`."""
    case = CASES[name]
    parts = {
        "propose": _proposing(config, case),
        "trial": _trials(config, sizes, case),
        "gate": _harness(config, case, sizes, sizes.gate, config.task.limits.gate),
        "select": _harness(config, case, sizes, sizes.select, config.task.limits.run * sizes.rounds),
    }
    tested = 1 if name == "low" else 2  # the first harness is the baseline, unless it stays the best
    test = _harness(config, case, sizes, sizes.test, config.task.limits.run).times(tested)
    return Forecast(_generations(config, name), parts, test)


def _generations(config: Experiment, name: str) -> int:
    patience = config.search.patience
    if name == "low" and patience is not None:
        return min(config.max_gen, patience + 1)
    return config.max_gen


def _proposing(config: Experiment, case: Case) -> Spent:
    """Return the amount of a generation's proposals; turns are sequential, parallel proposals simultaneous."""
    agent, hosted = config.meta_agent, config.meta_provider
    if not config.proposer_calls_model or not isinstance(hosted, Hosted):
        return Spent()
    turns = _attempts(max(1, ceil(_number(agent, "turns") * case.turns)), case)
    kb = getattr(agent, "context_kb", None)
    request = case.guest_context if kb is None else int(kb * _KB / _BYTES_PER_TOKEN * case.context)
    answer = min(case.written, getattr(agent, "max_tokens", hosted.max_tokens))
    width = config.search.width
    calls = turns * width
    return Spent(calls, calls * request, calls * answer, turns * _seconds(answer, case))


def _trials(config: Experiment, sizes: Sizes, case: Case) -> Spent:
    agent, width = config.meta_agent, config.search.width
    questions = _number(agent, "questions") or sizes.trial
    trial = _harness(config, case, sizes, min(questions, sizes.trial), config.task.limits.run)
    trials = trial.times(ceil(_number(agent, "trials") * case.trials) * width)
    if width == 1:
        return trials
    return trials.plus(_harness(config, case, sizes, sizes.trial, config.task.limits.run).times(width))


def _harness(config: Experiment, case: Case, sizes: Sizes, questions: int, limit: float) -> Spent:
    """Return the amount of one run of a harness; `limit` is in seconds."""
    hosted = config.target_provider
    if not config.calls_model or not isinstance(hosted, Hosted):
        return Spent()
    calls = _attempts(questions * case.calls, case)
    request = sizes.question_bytes // _BYTES_PER_TOKEN + case.prompt
    answer = min(case.answer, hosted.max_tokens)
    at_once = min(case.at_once, hosted.concurrency)
    seconds = ceil(calls / at_once) * _seconds(answer, case)
    return Spent(calls, calls * request, calls * answer, min(seconds, limit))


def _attempts(calls: int, case: Case) -> int:
    return ceil(calls * (1 + case.again))


def _seconds(answer: int, case: Case) -> float:
    return case.wait + answer / case.speed


def _number(agent: Any, key: str) -> int:
    value = getattr(agent, key, 0)
    return value if isinstance(value, int) else 0


def _sum(parts: Any) -> Spent:
    total = Spent()
    for part in parts:
        total = total.plus(part)
    return total
