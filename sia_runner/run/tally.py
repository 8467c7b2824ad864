"""A short text on what a run has cost so far, against its budget."""

from collections.abc import Mapping
from typing import Any

from sia_runner.config import Amounts


def so_far(usage: Mapping[str, Any], minutes: float, budget: Amounts) -> str:
    """Format the amounts that were spent or have a limit: ``$0.12 of $5.00, 1,204 of 10,000 calls, 3.1 of 60 minutes``.

    The text is empty where no model was called and nothing is limited.
    """
    parts: list[str] = []
    if budget.usd is not None or usage["calls"]:
        dollars = "price not known" if usage["usd"] is None else f"${usage['usd']:.2f}"
        parts.append(dollars + (f" of ${budget.usd:,.2f}" if budget.usd is not None else ""))
    for unit in ("tokens", "calls"):
        limit = getattr(budget, unit)
        if limit is not None or usage[unit]:
            parts.append(f"{usage[unit]:,}" + (f" of {limit:,}" if limit is not None else "") + f" {unit}")
    if budget.minutes is not None:
        parts.append(f"{minutes:.1f} of {budget.minutes:g} minutes")
    return ", ".join(parts)
