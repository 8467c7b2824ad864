"""Forecasts of cost: of a whole run from stated assumptions, and of one candidate from what its run has measured."""

from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, field, replace
from functools import partial
from math import ceil, inf
from typing import Any

from sia_runner.config.components import HostedProvider
from sia_runner.config.experiment import BUDGET_UNITS, Experiment
from sia_runner.config.migration import migrate_algorithm
from sia_runner.config.training import AlgorithmConfig, TrainingPrices, allowed_algorithms
from sia_runner.errors import TrainingError
from sia_runner.experiment.context import RunContext
from sia_runner.gateway.ledger_files import RunTotals, read_totals
from sia_runner.gateway.prices import PICO, Rates, price_of
from sia_runner.policy.backend import price_date, training_prices
from sia_runner.records import Json, Lever, Proposal
from sia_runner.stage_results import BuildResult
from sia_runner.store.generations import GenerationRecord
from sia_runner.store.journal import JournalReader, finished_generations
from sia_runner.store.run_directory import RunDir, RunDirectoryError
from sia_runner.tasks.protocol import Fold, FoldPurpose, Task
from sia_runner.wire.grants import Role

_ROLES: tuple[Role, ...] = ("meta", "target", "learner")
_WATCHED_SHARE = 8  # a KL to the base that the loss does not need is measured on every eighth row, at most
_BYTES_PER_TOKEN = 4  # of English; other scripts take more


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

    def use(self, calls: int, request: int, answer: int, at_once: int = 1, width: int = 1) -> "ModelUse":
        """Return `calls` with their repeats, `at_once` at a time, by `width` callers in parallel; sizes are tokens."""
        attempts = ceil(calls * (1 + self.again))
        seconds = ceil(attempts / at_once) * (self.wait + answer / self.speed)
        return ModelUse(attempts * width, attempts * width * request, attempts * width * answer, seconds)


ASSUMPTIONS: Mapping[str, CostAssumptions] = {
    "low": CostAssumptions(1, 100, 150, 0.2, 0.1, 8_000, 300, 0.2, 0.0, 16, 0.5, 120),
    "expected": CostAssumptions(1, 400, 1_000, 0.5, 0.35, 30_000, 800, 0.5, 0.02, 8, 1.5, 60),
    "high": CostAssumptions(3, 2_000, 4_000, 1.0, 1.0, 100_000, 2_500, 1.0, 0.1, 1, 5.0, 25),
}


@dataclass(frozen=True, slots=True)
class TaskSizes:
    """The number of questions of each run of a harness, the average size of one in bytes, and a policy's speed."""

    gate: int
    trial: int  # all dev questions
    select: int
    rounds: int  # runs that `select` takes
    test: int
    question_bytes: int
    policy_speed: float | None = None  # output tokens a second of all its calls together; None: not known


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

    def share(self, fraction: float) -> "ModelUse":
        """Return a part of the use, rounded up."""
        return ModelUse(*(ceil(value * fraction) for value in astuple(self)))

    @property
    def tokens(self) -> int:
        """The input and output tokens together."""
        return self.input_tokens + self.output_tokens


@dataclass(frozen=True, slots=True)
class Forecast:
    """The forecast of one case: `parts` maps each purpose to the use of one generation, `test` is the final test's."""

    generations: int
    parts: Mapping[str, ModelUse]
    test: ModelUse = field(default_factory=ModelUse)
    timed: bool = True  # False: the seconds leave out a policy, whose speed is not known

    @property
    def generation(self) -> ModelUse:
        """The use of one generation."""
        return sum(self.parts.values(), ModelUse())

    @property
    def meta(self) -> ModelUse:
        """The use of the proposer over the whole run."""
        return self.parts["propose"] * self.generations

    @property
    def target(self) -> ModelUse:
        """The use of the harnesses over the whole run."""
        others = ("propose", "train")
        harness = sum((part for name, part in self.parts.items() if name not in others), ModelUse())
        return harness * self.generations + self.test

    @property
    def learner(self) -> ModelUse:
        """The use of a service that trains, over the whole run: tokens read, and tokens trained as output."""
        return self.parts.get("train", ModelUse()) * self.generations

    @property
    def total(self) -> ModelUse:
        """The use of the whole run."""
        return self.meta + self.target + self.learner


Forecasts = Mapping[str, Forecast]


def forecast_run(config: Experiment, sizes: TaskSizes, name: str) -> Forecast:
    """Return the forecast of the case called `name`."""
    case, agent, limits = ASSUMPTIONS[name], config.meta_agent, config.task.limits
    width, patience = config.search.proposals_per_generation, config.search.patience
    harness = partial(_harness_use, config, sizes, case)
    questions = min(_agent_number(agent, "trial_questions") or sizes.trial, sizes.trial)
    trials = harness(questions, limits.run) * (ceil(_agent_number(agent, "trials") * case.trials) * width)
    if width > 1:  # each proposal is run on dev before the best of them is taken
        trials += harness(sizes.trial, limits.run) * width
    parts = {
        "propose": _proposing(config, case),
        "trial": trials,
        "gate": harness(sizes.gate, limits.gate),
        "select": harness(sizes.select, limits.run * sizes.rounds),
    }
    generations = config.max_gen
    if name == "low" and patience is not None:
        generations = min(generations, patience + 1)
    if trains_at_service(config):
        updates = {"low": 1, "expected": ceil((generations - 1) / 2)}.get(name, generations - 1)
        update, share = forecast_update(config, sizes, name), min(updates, generations - 1) / generations
        parts |= {"rollout": update.rollouts.share(share), "train": update.training.share(share)}
    tested = 1 if name == "low" else 2  # the first harness is the baseline, unless it stays the best
    timed = sizes.policy_speed is not None or not config.has_policy
    return Forecast(generations, parts, harness(sizes.test, limits.run) * tested, timed)


@dataclass(frozen=True, slots=True)
class UpdateForecast:
    """The use of one update of the weights: sampling, and training with tokens trained as output."""

    algorithm: str
    rollouts: ModelUse
    training: ModelUse


def trains_at_service(config: Experiment) -> bool:
    """Tell whether updates are made, and billed, by a service."""
    return config.has_policy and config.trainer.kind != "none" and config.target_agent.policy.backend == "tinker"


def forecast_update(config: Experiment, sizes: TaskSizes, name: str) -> UpdateForecast:
    """Return the forecast of one update in the case called `name`; of several algorithms the one with most tokens.

    All rows are counted as trained; online, those of questions whose samples earned the same are left out in fact.
    """
    case, algorithms = ASSUMPTIONS[name], allowed_algorithms(config.trainer)
    request = sizes.question_bytes // _BYTES_PER_TOKEN + case.prompt
    answer = min(case.answer, config.target_agent.policy.max_tokens)
    forecasts = [
        _forecast_algorithm(algorithm, case.calls, request, answer)
        for algorithm in algorithms.values()
        if algorithm.algorithm != "ppo"
    ]
    return max(forecasts, key=lambda each: each.rollouts.tokens + each.training.tokens)


def _forecast_algorithm(algorithm: AlgorithmConfig, calls: int, request: int, answer: int) -> UpdateForecast:
    from sia_runner.training.algorithms import base

    sampled = planned_rollouts(algorithm)[1] * calls
    rollouts = ModelUse(sampled, sampled * request, sampled * answer)
    length = min(request + answer, algorithm.max_length)
    if algorithm.kind == "online":
        loss = base.online_algorithm(algorithm).loss
        trained, watched = sampled * loss.iterations, sampled if loss.beta else ceil(sampled / _WATCHED_SHARE)
        calls_made = 2 * algorithm.steps + ceil(algorithm.steps / loss.iterations)
    else:
        offline = base.offline_algorithm(algorithm)
        pairs = offline.trainer != "sft"
        trained, watched = algorithm.steps * offline.batch * (1 + pairs), ceil(sampled / _WATCHED_SHARE) * 2
        watched += trained if pairs else 0  # DPO's reference
        calls_made = (2 + pairs) * algorithm.steps + 2 * offline.rounds
    # each trained row is read once before, as its weights depend on its logprobs
    return UpdateForecast(
        algorithm.name, rollouts, ModelUse(calls_made, (trained + watched) * length, trained * length)
    )


def update_dollars(config: Experiment, update: UpdateForecast) -> float | None:
    """Return the price of one update; None where the service's prices are not known."""
    prices = training_prices(config.target_agent.policy)
    if prices is None:
        return None
    rolled, trained = update.rollouts, update.training
    tokens = (rolled.input_tokens + trained.input_tokens, rolled.output_tokens, trained.output_tokens)
    return (
        sum(count * price for count, price in zip(tokens, (prices.prefill, prices.sample, prices.train), strict=True))
        / 1e6
    )


def update_line(config: Experiment, sizes: TaskSizes, name: str) -> str:
    """Return one line: what an update of the weights takes and costs in the case called `name`."""
    update = forecast_update(config, sizes, name)
    rolled, trained, dollars = update.rollouts, update.training, update_dollars(config, update)
    tokens = (
        f"{rolled.input_tokens + trained.input_tokens:,} tokens read, {rolled.output_tokens:,} sampled, "
        f"{trained.output_tokens:,} trained"
    )
    price = "price unknown" if dollars is None else f"USD {dollars:,.2f}"
    calls = f"{rolled.calls + trained.calls:,} calls"
    return f"an update with {update.algorithm}, {name}: {calls}, {tokens}: {price}"


def policy_is_priced(config: Experiment) -> bool:
    """Tell whether the policy's prices are known."""
    return training_prices(config.target_agent.policy) is not None


def policy_price(config: Experiment) -> str:
    """Return what the policy's tokens cost, as a phrase."""
    policy = config.target_agent.policy
    prices = training_prices(policy)
    if prices is None:
        return "its prices are not known; give target_agent.policy.tinker.prices in USD per million tokens"
    if not (prices.prefill or prices.sample or prices.train):
        return "USD 0"
    figures = f"USD {prices.prefill:g} read, {prices.sample:g} sampled, {prices.train:g} trained per million tokens"
    source = "target_agent.policy.tinker.prices" if policy.tinker.prices else f"conf/prices/tinker.yaml, {price_date()}"
    return f"{figures} ({source})"


def policy_speed(run: RunDir) -> float:
    """Return TaskSizes.policy_speed of the newest scored generation of an earlier run. Raises RunDirectoryError."""
    totals = read_totals(run.ledger)
    for generation in reversed(finished_generations(JournalReader(run.journal))):
        tokens = totals.of(candidate=f"gen_{generation.n}", purpose="select").output_tokens
        if generation.val is not None and tokens and (seconds := generation.seconds["run"]):
            return tokens / seconds
    raise RunDirectoryError(f"{run.path}: no scored harness called a model in this run")


def _harness_use(
    config: Experiment, sizes: TaskSizes, case: CostAssumptions, questions: int, limit: float = inf
) -> ModelUse:
    """Return the use of one run of a harness, which ends after `limit` seconds."""
    hosted, calls = config.target_provider, questions * case.calls
    request = sizes.question_bytes // _BYTES_PER_TOKEN + case.prompt
    if config.has_policy:
        tokens, speed = calls * min(case.answer, config.target_agent.policy.max_tokens), sizes.policy_speed
        return ModelUse(calls, calls * request, tokens, min(tokens / speed, limit) if speed else 0.0)
    if not config.calls_model or not isinstance(hosted, HostedProvider):
        return ModelUse()
    answer, at_once = min(case.answer, hosted.max_tokens), min(case.at_once, hosted.concurrency)
    use = case.use(calls, request, answer, at_once)
    return replace(use, seconds=min(use.seconds, limit))


def task_sizes(task: Task, question_bytes: int, policy_speed: float | None = None) -> TaskSizes:
    """Count the questions of each run of a harness on a prepared task."""
    purposes: tuple[FoldPurpose, ...] = ("gate", "trial", "test") if task.has_test else ()  # else scored as a whole
    counts = {name: sum(len(fold.questions) for fold in task.rounds(name)) for name in purposes}
    select = task.rounds("select")
    gate, trial, test = (counts.get(name, 0) for name in ("gate", "trial", "test"))
    return TaskSizes(gate, trial, _question_count(select), len(select), test, question_bytes, policy_speed)


def limit_lines(config: Experiment, sizes: TaskSizes) -> list[str]:
    """Return one line for each time limit of the task that the models of the expected case are too slow for."""
    limits, lines = config.task.limits, list[str]()
    longest = max(ceil(sizes.select / max(sizes.rounds, 1)), sizes.test)
    for key, questions, limit in (("gate", sizes.gate, limits.gate), ("run", longest, limits.run)):
        seconds = _harness_use(config, sizes, ASSUMPTIONS["expected"], questions).seconds
        if seconds > limit:
            pace = f" at {sizes.policy_speed:.0f} tokens a second" if sizes.policy_speed else ""
            takes = f"the answers to {questions} questions take {seconds:.0f} s{pace}"
            lines.append(f"task.limits.{key}={limit:g} · too short: {takes}")
    return lines


def _proposing(config: Experiment, case: CostAssumptions) -> ModelUse:
    """Return the use of a generation's proposals; turns are sequential, parallel proposals simultaneous."""
    agent, hosted = config.meta_agent, config.meta_provider
    if not config.proposer_calls_model or not isinstance(hosted, HostedProvider):
        return ModelUse()
    kb = getattr(agent, "context_kb", None)
    request = case.guest_context if kb is None else int(kb * 1024 / _BYTES_PER_TOKEN * case.context)
    answer = min(case.written, getattr(agent, "max_tokens", hosted.max_tokens))
    turns = max(1, ceil(_agent_number(agent, "turns") * case.turns))
    return case.use(turns, request, answer, width=config.search.proposals_per_generation)


def _agent_number(agent: Any, key: str) -> int:
    value = getattr(agent, key, 0)
    return value if isinstance(value, int) else 0


def role_name(role: Role) -> str:
    """Return the role's name in messages."""
    return {"meta": "proposer", "target": "harness", "learner": "training"}[role]


def price_text(rates: Rates) -> str:
    """Return a model's prices and where they are from."""
    return f"USD {rates.input:g} in, {rates.output:g} out per million tokens ({rates.source})"


def hosted_roles(config: Experiment) -> dict[Role, HostedProvider]:
    """Return the provider of each role whose model the experiment calls."""
    used = {"meta": config.proposer_calls_model, "target": config.calls_model and not config.has_policy}
    providers = {"meta": config.meta_provider, "target": config.target_provider}
    roles: tuple[Role, ...] = ("meta", "target")
    return {role: hosted for role in roles if used[role] and isinstance(hosted := providers[role], HostedProvider)}


def called_models(config: Experiment) -> list[tuple[Role, HostedProvider]]:
    """Return each hosted model that the experiment calls, with its role; a proposer may have several."""
    others: list[tuple[Role, HostedProvider]] = [("meta", hosted) for hosted in config.other_meta_providers]
    return [*hosted_roles(config).items(), *others]


def role_dollars(config: Experiment, case: Forecast, role: Role) -> float | None:
    """Return the dollars that a role spends in one case; None where its prices are unknown."""
    models = [hosted for caller, hosted in called_models(config) if caller == role]
    usage: ModelUse = getattr(case, role)
    if usage.calls and role != "meta" and config.has_policy:
        prices = training_prices(config.target_agent.policy)
        if prices is None:
            return None
        output = prices.train if role == "learner" else prices.sample
        return (usage.input_tokens * prices.prefill + usage.output_tokens * output) / 1e6
    if not models or usage.calls == 0:
        return 0.0
    rates = [price_of(hosted) for hosted in models]
    # priced call by call: long requests may cost more than the same tokens in short ones; of several models the dearest
    tokens = usage.input_tokens // usage.calls, usage.output_tokens // usage.calls
    dollars = [each.cost(*tokens) * usage.calls / PICO for each in rates if each is not None]
    return max(dollars) if len(dollars) == len(rates) else None


def total_dollars(config: Experiment, case: Forecast) -> float | None:
    """Return the dollars of all roles in one case; None where a price is unknown."""
    return _sum_or_none([role_dollars(config, case, role) for role in _ROLES])


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
            effect = f"cuts a generation in the case {', '.join(over)}" if over else "cuts nothing"
            lines.append(f"budget.generation.{key}={limit:g} · {effect}")
    if (limit := config.budget.minutes) is not None:
        says = [f"{name}: {_when_spent(config, case, 'minutes', limit)}" for name, case in cases.items() if case.timed]
        says = says or ["the policy's speed is not known"]
        lines.append(f"budget.minutes={limit:g} · {' · '.join(says)}")
    return lines


def _when_spent(config: Experiment, case: Forecast, key: str, limit: float) -> str:
    if key == "minutes":  # which no test is taken off
        return _when_reached(case, limit, case.generation.seconds / 60, "after")
    per_generation, test = (_amount(config, case, key, part) for part in ("generation", "test"))
    if per_generation is None or test is None:
        return "prices unknown"
    return _when_reached(case, limit - max(config.budget.test_reserve * limit, test), per_generation, "in")


def _when_reached(case: Forecast, limit: float, per_generation: float, when: str) -> str:
    generations = int(limit / per_generation) if per_generation else case.generations
    if generations >= case.generations:
        return "enough"
    return f"ends {when} generation {max(0, generations) + 1} of {case.generations}"


def _amount(config: Experiment, case: Forecast, key: str, part: str) -> float | None:
    if key != "usd":
        return getattr(getattr(case, part), key)
    part_only = Forecast(1, case.parts) if part == "generation" else Forecast(0, case.parts, case.test)
    return total_dollars(config, part_only)


def _sum_or_none(amounts: Sequence[float | None]) -> float | None:
    present = [amount for amount in amounts if amount is not None]
    return sum(present) if len(present) == len(amounts) else None


@dataclass(frozen=True, slots=True)
class _QuestionCost:
    """The measured cost of one question that a harness runs on; `usd` is None where a call's price is not known."""

    calls: float
    tokens: float
    usd: float | None
    seconds: float
    source: str  # where it was measured
    start: float = 0.0  # seconds that each run of the harness takes beside its questions


@dataclass(frozen=True, slots=True)
class PlanCost:
    """The estimated cost of one part of the work, as in plan.json; None means not known."""

    name: str
    sandbox_runs: int | None = None
    questions: int | None = None  # over all runs
    calls: int | None = None
    tokens: int | None = None
    usd: float | None = None
    minutes: float | None = None
    source: str = "nothing was measured in this run yet"


def plan_costs(context: RunContext, proposal: Proposal, before: Sequence[GenerationRecord]) -> list[PlanCost]:
    """Return the cost of training, where weights are a lever, and of the gate and run of every candidate."""
    totals, task = read_totals(context.run.ledger), context.task
    scored = [generation for generation in before if generation.val is not None]
    # the parent, else the newest scored candidate: the next one probably costs the same
    similar = next((g for g in scored if g.n == proposal.parent), scored[-1] if scored else None)
    gate, select = task.rounds("gate"), task.rounds("select")
    per_question = _cost_of_candidate(totals, similar, gate, select) if similar else None
    questions = _question_count(gate) + _question_count(select)
    after = _plan_cost("gate and run", len(gate) + len(select), questions, per_question)
    if not proposal.trains_weights:
        return [after]
    algorithm = AlgorithmConfig.model_validate(migrate_algorithm(proposal.overrides))
    prices = training_prices(context.config.target_agent.policy)
    rolled = _cost_of_probe(proposal.evidence, prices) or per_question
    trained = _cost_of_update(totals, before)
    try:
        training = _plan_cost("training", *planned_rollouts(algorithm), trained or rolled)
    except TrainingError as error:
        return [PlanCost("training", source=str(error)), after]
    if rolled and not trained:
        training = replace(training, source=f"{training.source}; time of the rollouts alone")
    return [training, after]


def update_cost(context: RunContext, parent: int, shape: Json, algorithm: AlgorithmConfig) -> dict[str, float | None]:
    """Return the cost, by unit, of an update after a probe of this `shape` and of what follows; None: unknown."""
    settings = algorithm.model_dump(mode="json")
    proposal = Proposal(Lever.WEIGHTS, "", overrides=settings, parent=parent, evidence={"shape": shape})
    parts = plan_costs(context, proposal, finished_generations(JournalReader(context.run.journal)))
    sums = {unit: _sum_or_none([getattr(part, unit) for part in parts]) for unit in BUDGET_UNITS}
    return {unit: None if amount is None else round(amount, 4) for unit, amount in sums.items()}


def _question_count(folds: Sequence[Fold]) -> int:
    return sum(len(fold.questions) for fold in folds)


def _cost_of_candidate(
    totals: RunTotals, candidate: GenerationRecord, gate: Sequence[Fold], select: Sequence[Fold]
) -> _QuestionCost:
    """Return the cost of a scored candidate on dev and val. A gate is so short that its time is startup time."""
    row, questions = totals.of(candidate=f"gen_{candidate.n}", purpose="select"), _question_count(select)
    usd = row.dollars / questions if row.priced else None
    tokens = row.input_tokens + row.output_tokens
    start = min(candidate.seconds["gate"] / max(1, len(gate)), candidate.seconds["run"] / len(select))
    seconds = (candidate.seconds["run"] - start * len(select)) / questions
    source = f"generation {candidate.n} on {questions} questions"
    return _QuestionCost(row.calls / questions, tokens / questions, usd, seconds, source, start)


def _cost_of_probe(evidence: Mapping[str, Any], prices: TrainingPrices | None) -> _QuestionCost | None:
    """Return the cost of a rollout and of training on it, by the probe that chose the algorithm.

    Where a service is paid, each token is counted as sampled, read and trained once, which is too much for prompts.
    """
    shape = evidence.get("shape")
    if not shape or not shape["n"]:
        return None
    tokens, source = shape["tokens"], f"the probe's {shape['n']} rollouts"
    usd = None if prices is None else tokens * (prices.sample + prices.prefill + prices.train) / 1e6
    return _QuestionCost(shape["calls"], tokens, usd, shape["seconds"], source)


def _cost_of_update(totals: RunTotals, before: Sequence[GenerationRecord]) -> _QuestionCost | None:
    builds = {g.n: BuildResult.from_json(g.steps["build"]).training for g in before if "build" in g.steps}
    updates = [(n, training) for n, training in builds.items() if training and training.steps]
    if not updates:
        return None
    n, training = updates[-1]
    rows = [totals.of(candidate=f"gen_{n}", purpose=purpose) for purpose in ("rollout", "train")]
    algorithm = AlgorithmConfig.model_validate(migrate_algorithm(training.algorithm))
    runs, planned = planned_rollouts(algorithm)
    if algorithm.kind == "online":
        rollouts = planned * training.steps / algorithm.steps
    else:  # a curve has a point for each round, which may take fewer steps than its share
        rollouts = planned * len(training.reward) / (runs // algorithm.group_size)
    tokens, source = sum(row.input_tokens + row.output_tokens for row in rows), f"the update of generation {n}"
    usd = sum(row.dollars for row in rows) / rollouts if all(row.priced for row in rows) else None
    calls = sum(row.calls for row in rows)
    return _QuestionCost(calls / rollouts, tokens / rollouts, usd, training.seconds / rollouts, source)


def planned_rollouts(algorithm: AlgorithmConfig) -> tuple[int, int]:
    """Return the runs of the harness in one update, and the questions over all of them. Raises TrainingError."""
    from sia_runner.training.algorithms import base

    if algorithm.kind == "online":
        batches = ceil(algorithm.steps / base.online_algorithm(algorithm).loss.iterations)
        per_batch = algorithm.prompt_count
    else:
        batches = min(base.offline_algorithm(algorithm).rounds, algorithm.steps)
        per_batch = ceil(algorithm.prompt_count / batches)
    runs = batches * algorithm.group_size
    return runs, runs * per_batch


def _plan_cost(name: str, runs: int, questions: int, per_question: _QuestionCost | None) -> PlanCost:
    if per_question is None:
        return PlanCost(name, runs, questions)
    calls, tokens = round(per_question.calls * questions), round(per_question.tokens * questions)
    usd = None if per_question.usd is None else round(per_question.usd * questions, 4)
    minutes = round((per_question.start * runs + per_question.seconds * questions) / 60, 2)
    return PlanCost(name, runs, questions, calls, tokens, usd, minutes, per_question.source)
