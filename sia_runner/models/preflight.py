"""Checks of a provider before a run: packages, key, price where a limit needs it, and an endpoint that answers.

They use the standard library only, so that a refusal costs milliseconds; the endpoint is asked once, for its models.
"""

import importlib.util
import time
from collections.abc import Mapping

from sia_runner.config import Budget
from sia_runner.models.keys import key_of
from sia_runner.models.prices import price_of
from sia_runner.models.protocol import ModelsError, Role
from sia_runner.models.reachable import SECONDS, Question
from sia_runner.schema.provider import Hosted

_PACKAGES = ("litellm", "aiohttp")


def check(role: Role, hosted: Hosted, budget: Budget) -> None:
    """Check one role's provider. Raises ModelsError with one line; takes little more than `PROBE_SECONDS`."""
    check_all({role: hosted}, budget)


def check_all(providers: Mapping[Role, Hosted], budget: Budget) -> None:
    """Check the providers of all roles side by side, each endpoint once. Raises ModelsError."""
    check_installed()
    for hosted in providers.values():
        key_of(hosted)
        check_price(hosted, budget)
    distinct = {(h.name, h.base_url, h.model, h.key): h for h in providers.values()}
    questions = [Question(hosted) for hosted in distinct.values()]
    deadline = time.monotonic() + SECONDS
    for question in questions:
        question.answer(deadline)


def check_installed() -> None:
    """Raise ModelsError where a package is missing."""
    missing = [name for name in _PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise ModelsError(f"provider=… needs {' and '.join(missing)}; pip install 'sia-runner[models]'")


def check_price(hosted: Hosted, budget: Budget) -> None:
    """Raise ModelsError where the budget is in dollars and the model's price is not known."""
    limited = budget.usd is not None or budget.generation.usd is not None
    if limited and price_of(hosted) is None:
        raise ModelsError(
            f"provider {hosted.name}: prices of {hosted.model} are not known; give provider.prices.input and .output "
            "in USD per million tokens, or limit budget.tokens"
        )


def check_endpoint(hosted: Hosted) -> str:
    """Ask the endpoint and return the result as a phrase. Raises ModelsError."""
    return Question(hosted).answer(time.monotonic() + SECONDS)
