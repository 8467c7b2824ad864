"""What a forecast costs in dollars, and where the limits of a budget would cut it."""

from collections.abc import Mapping

from sia_runner.config import Experiment
from sia_runner.estimate.forecast import Forecast, Spent
from sia_runner.models.prices import PICO, Rates, price_of
from sia_runner.models.protocol import Role
from sia_runner.schema.provider import Hosted

Forecasts = Mapping[str, Forecast]
ROLES: tuple[Role, ...] = ("meta", "target")


def hosted_roles(config: Experiment) -> dict[Role, Hosted]:
    """Whose models the experiment calls."""
    used = {"meta": config.proposer_calls_model, "target": config.calls_model}
    found = {"meta": config.meta_provider, "target": config.target_provider}
    return {role: hosted for role in ROLES if used[role] and isinstance(hosted := found[role], Hosted)}


def dollars(config: Experiment, case: Forecast, role: Role) -> float | None:
    hosted = hosted_roles(config).get(role)
    spent: Spent = getattr(case, role)
    if hosted is None or spent.calls == 0:
        return 0.0
    rates = price_of(hosted)
    return None if rates is None else _cost(rates, spent)


def _cost(rates: Rates, spent: Spent) -> float:
    """Call by call: long requests may be dearer than the same tokens in short ones."""
    each = rates.cost(spent.input_tokens // spent.calls, spent.output_tokens // spent.calls)
    return each * spent.calls / PICO


def total_dollars(config: Experiment, case: Forecast) -> float | None:
    parts = [dollars(config, case, role) for role in ROLES]
    return None if None in parts else sum(part or 0.0 for part in parts)


def cuts(config: Experiment, cases: Forecasts) -> list[str]:
    """What each limit of the budget would do, one line each."""
    lines: list[str] = []
    for key, limit in (("usd", config.budget.usd), ("tokens", config.budget.tokens), ("calls", config.budget.calls)):
        if limit is not None:
            says = [f"{name}: {_reach(config, case, key, limit)}" for name, case in cases.items()]
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


def _reach(config: Experiment, case: Forecast, key: str, limit: float) -> str:
    each, test = (_amount(config, case, key, part) for part in ("generation", "test"))
    if each is None or test is None:
        return "prices unknown"
    kept = max(config.budget.reserve * limit, test)
    made = int((limit - kept) / each) if each else case.generations
    return "enough" if made >= case.generations else f"ends in generation {max(0, made) + 1} of {case.generations}"


def _minutes(config: Experiment, case: Forecast) -> str:
    limit, each = config.budget.minutes or 0.0, case.generation.seconds / 60
    made = int(limit / each) if each else case.generations
    return "enough" if made >= case.generations else f"ends after generation {made + 1} of {case.generations}"


def _amount(config: Experiment, case: Forecast, key: str, part: str) -> float | None:
    """Of one generation, or of the final test."""
    spent: Spent = getattr(case, part)
    if key != "usd":
        return getattr(spent, key)
    one = Forecast(1, case.parts) if part == "generation" else Forecast(0, case.parts, case.test)
    return total_dollars(config, one)
