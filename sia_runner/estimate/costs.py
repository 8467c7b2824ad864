"""The price of a forecast in dollars, and where the limits of a budget would end it."""

from collections.abc import Mapping

from sia_runner.config import Experiment
from sia_runner.estimate.forecast import Forecast, Spent
from sia_runner.models.prices import PICO, Rates, price_of
from sia_runner.models.protocol import Role
from sia_runner.schema.provider import Hosted

Forecasts = Mapping[str, Forecast]
ROLES: tuple[Role, ...] = ("meta", "target")


def hosted_roles(config: Experiment) -> dict[Role, Hosted]:
    """Return the provider of each role whose model the experiment calls."""
    used = {"meta": config.proposer_calls_model, "target": config.calls_model}
    providers = {"meta": config.meta_provider, "target": config.target_provider}
    return {role: hosted for role in ROLES if used[role] and isinstance(hosted := providers[role], Hosted)}


def dollars(config: Experiment, case: Forecast, role: Role) -> float | None:
    """Return the dollars that a role spends in one case; None where its prices are unknown."""
    hosted = hosted_roles(config).get(role)
    usage: Spent = getattr(case, role)
    if hosted is None or usage.calls == 0:
        return 0.0
    rates = price_of(hosted)
    return None if rates is None else _cost(rates, usage)


def _cost(rates: Rates, usage: Spent) -> float:
    """Return the dollars, priced call by call: long requests may cost more than the same tokens in short ones."""
    each = rates.cost(usage.input_tokens // usage.calls, usage.output_tokens // usage.calls)
    return each * usage.calls / PICO


def total_dollars(config: Experiment, case: Forecast) -> float | None:
    """Return the dollars of all roles in one case; None where a price is unknown."""
    parts = [dollars(config, case, role) for role in ROLES]
    return None if None in parts else sum(part or 0.0 for part in parts)


def cuts(config: Experiment, cases: Forecasts) -> list[str]:
    """Return one line on what each limit of the budget would do."""
    lines: list[str] = []
    for key, limit in (("usd", config.budget.usd), ("tokens", config.budget.tokens), ("calls", config.budget.calls)):
        if limit is not None:
            says = [f"{name}: {_when_spent(config, case, key, limit)}" for name, case in cases.items()]
            lines.append(f"budget.{key}={limit:g} · {' · '.join(says)}")
    for key in ("usd", "tokens", "calls"):
        limit = getattr(config.budget.generation, key)
        if limit is not None:
            over = [name for name, case in cases.items() if (_amount(config, case, key, "generation") or 0) > limit]
            says = f"cuts a generation in the case {', '.join(over)}" if over else "cuts nothing"
            lines.append(f"budget.generation.{key}={limit:g} · {says}")
    if config.budget.minutes is not None:
        says = [f"{name}: {_minutes(config, case)}" for name, case in cases.items()]
        lines.append(f"budget.minutes={config.budget.minutes:g} · {' · '.join(says)}")
    return lines


def _when_spent(config: Experiment, case: Forecast, key: str, limit: float) -> str:
    per_generation, test = (_amount(config, case, key, part) for part in ("generation", "test"))
    if per_generation is None or test is None:
        return "prices unknown"
    reserve = max(config.budget.reserve * limit, test)
    generations = int((limit - reserve) / per_generation) if per_generation else case.generations
    if generations >= case.generations:
        return "enough"
    return f"ends in generation {max(0, generations) + 1} of {case.generations}"


def _minutes(config: Experiment, case: Forecast) -> str:
    limit, per_generation = config.budget.minutes or 0.0, case.generation.seconds / 60
    generations = int(limit / per_generation) if per_generation else case.generations
    if generations >= case.generations:
        return "enough"
    return f"ends after generation {generations + 1} of {case.generations}"


def _amount(config: Experiment, case: Forecast, key: str, part: str) -> float | None:
    """Return the amount of one generation, or of the final test; None where prices are unknown."""
    usage: Spent = getattr(case, part)
    if key != "usd":
        return getattr(usage, key)
    part_only = Forecast(1, case.parts) if part == "generation" else Forecast(0, case.parts, case.test)
    return total_dollars(config, part_only)
