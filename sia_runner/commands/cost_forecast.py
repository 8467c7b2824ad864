"""A forecast of a run's calls, tokens, seconds and dollars under three sets of assumptions, against its budget.

It calls no model.
"""

from collections.abc import Mapping
from dataclasses import astuple, dataclass, field
from math import ceil
from typing import Any

from sia_runner.config.components import HostedProvider
from sia_runner.config.experiment import Experiment
from sia_runner.gateway.prices import PICO, Rates, price_of
from sia_runner.wire.grants import Role

_BYTES_PER_TOKEN = 4  # of English; other scripts take more
_KB = 1024


@dataclass(frozen=True, slots=True)
class CostAssumptions:
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


ASSUMPTIONS: Mapping[str, CostAssumptions] = {
    "low": CostAssumptions(1, 100, 150, 0.2, 0.1, 8_000, 300, 0.2, 0.0, 16, 0.5, 120),
    "expected": CostAssumptions(1, 400, 1_000, 0.5, 0.35, 30_000, 800, 0.5, 0.02, 8, 1.5, 60),
    "high": CostAssumptions(3, 2_000, 4_000, 1.0, 1.0, 100_000, 2_500, 1.0, 0.1, 1, 5.0, 25),
}


@dataclass(frozen=True, slots=True)
class TaskSizes:
    """The number of questions of each run of a harness, and the average size of one in bytes."""

    gate: int
    trial: int  # all dev questions
    select: int
    rounds: int  # runs that `select` takes
    test: int
    question_bytes: int


@dataclass(slots=True)
class ModelUse:
    """An amount of model use: calls, tokens and seconds of waiting."""

    calls: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    seconds: float = 0.0

    def __add__(self, other: "ModelUse") -> "ModelUse":
        return ModelUse(*(mine + theirs for mine, theirs in zip(astuple(self), astuple(other), strict=True)))

    def __mul__(self, factor: int) -> "ModelUse":
        return ModelUse(*(value * factor for value in astuple(self)))

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
    parts: Mapping[str, ModelUse] = field(default_factory=dict)
    test: ModelUse = field(default_factory=ModelUse)

    @property
    def generation(self) -> ModelUse:
        """The amount of one generation."""
        return sum(self.parts.values(), ModelUse())

    @property
    def meta(self) -> ModelUse:
        """The amount of the proposer over the whole run."""
        return self.parts["propose"] * self.generations

    @property
    def target(self) -> ModelUse:
        """The amount of the harnesses over the whole run."""
        harness = sum((part for name, part in self.parts.items() if name != "propose"), ModelUse())
        return harness * self.generations + self.test

    @property
    def total(self) -> ModelUse:
        """The amount of the whole run."""
        return self.meta + self.target


def forecast_run(config: Experiment, sizes: TaskSizes, name: str) -> Forecast:
    """Return the forecast of the case called `name`."""
    case = ASSUMPTIONS[name]
    parts = {
        "propose": _proposing(config, case),
        "trial": _trials(config, sizes, case),
        "gate": _harness(config, case, sizes, sizes.gate, config.task.limits.gate),
        "select": _harness(config, case, sizes, sizes.select, config.task.limits.run * sizes.rounds),
    }
    tested = 1 if name == "low" else 2  # the first harness is the baseline, unless it stays the best
    test = _harness(config, case, sizes, sizes.test, config.task.limits.run) * tested
    return Forecast(_generations(config, name), parts, test)


def _generations(config: Experiment, name: str) -> int:
    patience = config.search.patience
    if name == "low" and patience is not None:
        return min(config.max_gen, patience + 1)
    return config.max_gen


def _proposing(config: Experiment, case: CostAssumptions) -> ModelUse:
    """Return the amount of a generation's proposals; turns are sequential, parallel proposals simultaneous."""
    agent, hosted = config.meta_agent, config.meta_provider
    if not config.proposer_calls_model or not isinstance(hosted, HostedProvider):
        return ModelUse()
    turns = _attempts(max(1, ceil(_agent_number(agent, "turns") * case.turns)), case)
    kb = getattr(agent, "context_kb", None)
    request = case.guest_context if kb is None else int(kb * _KB / _BYTES_PER_TOKEN * case.context)
    answer = min(case.written, getattr(agent, "max_tokens", hosted.max_tokens))
    width = config.search.proposals_per_generation
    calls = turns * width
    return ModelUse(calls, calls * request, calls * answer, turns * _seconds(answer, case))


def _trials(config: Experiment, sizes: TaskSizes, case: CostAssumptions) -> ModelUse:
    agent, width = config.meta_agent, config.search.proposals_per_generation
    questions = _agent_number(agent, "trial_questions") or sizes.trial
    trial = _harness(config, case, sizes, min(questions, sizes.trial), config.task.limits.run)
    trials = trial * (ceil(_agent_number(agent, "trials") * case.trials) * width)
    if width == 1:
        return trials
    return trials + _harness(config, case, sizes, sizes.trial, config.task.limits.run) * width


def _harness(config: Experiment, case: CostAssumptions, sizes: TaskSizes, questions: int, limit: float) -> ModelUse:
    """Return the amount of one run of a harness; `limit` is in seconds."""
    hosted = config.target_provider
    if not config.calls_model or not isinstance(hosted, HostedProvider):
        return ModelUse()
    calls = _attempts(questions * case.calls, case)
    request = sizes.question_bytes // _BYTES_PER_TOKEN + case.prompt
    answer = min(case.answer, hosted.max_tokens)
    at_once = min(case.at_once, hosted.concurrency)
    seconds = ceil(calls / at_once) * _seconds(answer, case)
    return ModelUse(calls, calls * request, calls * answer, min(seconds, limit))


def _attempts(calls: int, case: CostAssumptions) -> int:
    return ceil(calls * (1 + case.again))


def _seconds(answer: int, case: CostAssumptions) -> float:
    return case.wait + answer / case.speed


def _agent_number(agent: Any, key: str) -> int:
    value = getattr(agent, key, 0)
    return value if isinstance(value, int) else 0


Forecasts = Mapping[str, Forecast]
ROLES: tuple[Role, ...] = ("meta", "target")


def role_name(role: Role) -> str:
    """Return the role's name in messages."""
    return "proposer" if role == "meta" else "harness"


def price_text(rates: Rates) -> str:
    """Return a model's prices and where they are from."""
    return f"USD {rates.input:g} in, {rates.output:g} out per million tokens ({rates.source})"


def hosted_roles(config: Experiment) -> dict[Role, HostedProvider]:
    """Return the provider of each role whose model the experiment calls."""
    used = {"meta": config.proposer_calls_model, "target": config.calls_model}
    providers = {"meta": config.meta_provider, "target": config.target_provider}
    return {role: hosted for role in ROLES if used[role] and isinstance(hosted := providers[role], HostedProvider)}


def role_dollars(config: Experiment, case: Forecast, role: Role) -> float | None:
    """Return the dollars that a role spends in one case; None where its prices are unknown."""
    hosted = hosted_roles(config).get(role)
    usage: ModelUse = getattr(case, role)
    if hosted is None or usage.calls == 0:
        return 0.0
    rates = price_of(hosted)
    if rates is None:
        return None
    # priced call by call: long requests may cost more than the same tokens in short ones
    return rates.cost(usage.input_tokens // usage.calls, usage.output_tokens // usage.calls) * usage.calls / PICO


def total_dollars(config: Experiment, case: Forecast) -> float | None:
    """Return the dollars of all roles in one case; None where a price is unknown."""
    parts = [role_dollars(config, case, role) for role in ROLES]
    return None if None in parts else sum(part or 0.0 for part in parts)


def budget_lines(config: Experiment, cases: Forecasts) -> list[str]:
    """Return one line on what each limit of the budget would do."""
    lines: list[str] = []
    for key in ("usd", "tokens", "calls"):
        if (limit := getattr(config.budget, key)) is not None:
            says = [f"{name}: {_when_spent(config, case, key, limit)}" for name, case in cases.items()]
            lines.append(f"budget.{key}={limit:g} · {' · '.join(says)}")
    for key in ("usd", "tokens", "calls"):
        if (limit := getattr(config.budget.generation, key)) is not None:
            over = [name for name, case in cases.items() if (_amount(config, case, key, "generation") or 0) > limit]
            says = f"cuts a generation in the case {', '.join(over)}" if over else "cuts nothing"
            lines.append(f"budget.generation.{key}={limit:g} · {says}")
    if config.budget.minutes is not None:
        says = [f"{name}: {_when_out_of_minutes(config, case)}" for name, case in cases.items()]
        lines.append(f"budget.minutes={config.budget.minutes:g} · {' · '.join(says)}")
    return lines


def _when_spent(config: Experiment, case: Forecast, key: str, limit: float) -> str:
    per_generation, test = (_amount(config, case, key, part) for part in ("generation", "test"))
    if per_generation is None or test is None:
        return "prices unknown"
    reserve = max(config.budget.test_reserve * limit, test)
    generations = int((limit - reserve) / per_generation) if per_generation else case.generations
    if generations >= case.generations:
        return "enough"
    return f"ends in generation {max(0, generations) + 1} of {case.generations}"


def _when_out_of_minutes(config: Experiment, case: Forecast) -> str:
    limit, per_generation = config.budget.minutes or 0.0, case.generation.seconds / 60
    generations = int(limit / per_generation) if per_generation else case.generations
    if generations >= case.generations:
        return "enough"
    return f"ends after generation {generations + 1} of {case.generations}"


def _amount(config: Experiment, case: Forecast, key: str, part: str) -> float | None:
    """Return the amount of one generation, or of the final test; None where prices are unknown."""
    usage: ModelUse = getattr(case, part)
    if key != "usd":
        return getattr(usage, key)
    part_only = Forecast(1, case.parts) if part == "generation" else Forecast(0, case.parts, case.test)
    return total_dollars(config, part_only)
