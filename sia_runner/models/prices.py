"""What a model costs: the experiment's own `provider.prices`, else the table that litellm ships. Unknown stays unknown.

The table is read as JSON from litellm's package data: importing litellm costs seconds, a refusal must not.
"""

import importlib.util
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from sia_runner.schema.provider import Hosted

PICO = 10**12  # sums of prices are whole picodollars: limits hold exactly, and no cent drifts away over 20,000 calls
_TABLE = "model_prices_and_context_window_backup.json"
_TIER = re.compile(r"input_cost_per_token_above_(\d+)k_tokens")
# Elsewhere these two names mean "speaks their protocol", and what a model is called says nothing about its price.
_HOME = {"openai": "openai.com", "anthropic": "anthropic.com"}


@dataclass(frozen=True, slots=True)
class Rates:
    """US dollars per million tokens. `cached`: input read from the provider's cache; `written`: input written to it.
    `tiers`: (input tokens, rates) pairs, rising: above so many input tokens the whole call is priced by those rates."""

    input: float
    output: float
    cached: float
    written: float
    source: str = "provider.prices"
    tiers: tuple[tuple[int, "Rates"], ...] = ()

    def cost(self, input_tokens: int, output_tokens: int, cached_tokens: int = 0, written_tokens: int = 0) -> int:
        """Picodollars. `input_tokens` are all of them; `cached_tokens` and `written_tokens` are parts of these."""
        rates = self._at(input_tokens)
        cached = min(cached_tokens, input_tokens)
        written = min(written_tokens, input_tokens - cached)
        parts = (
            (input_tokens - cached - written, rates.input),
            (cached, rates.cached),
            (written, rates.written),
            (output_tokens, rates.output),
        )
        return sum(tokens * _picodollars(rate) for tokens, rate in parts)

    def most(self, input_tokens: int, output_tokens: int) -> int:
        """Picodollars if all input were of the dearest kind: what is reserved before anything is known."""
        rates = self._at(input_tokens)
        dearest = max(rates.input, rates.cached, rates.written)
        return input_tokens * _picodollars(dearest) + output_tokens * _picodollars(rates.output)

    def _at(self, input_tokens: int) -> "Rates":
        return next((rates for above, rates in reversed(self.tiers) if input_tokens > above), self)


def price_of(hosted: Hosted) -> Rates | None:
    """None where nobody says what the model costs."""
    own = hosted.prices
    if own is not None:
        cached = own.input if own.cached_input is None else own.cached_input
        return Rates(own.input, own.output, cached, own.input)
    if not _at_home(hosted):
        return None
    for name in (f"{hosted.litellm}/{hosted.model}", hosted.model):
        entry = _table().get(name)
        if isinstance(entry, Mapping) and entry.get("litellm_provider") == hosted.litellm:
            return _rates(entry)
    return None


def _at_home(hosted: Hosted) -> bool:
    home = _HOME.get(hosted.litellm)
    host = urlsplit(hosted.base_url or "").hostname
    return home is None or host is None or host == home or host.endswith(f".{home}")


@lru_cache(maxsize=1)
def _table() -> Mapping[str, Any]:
    """litellm's own prices (3 MB, read once); empty where litellm is not installed or has no such file."""
    found = importlib.util.find_spec("litellm")
    if found is None or found.origin is None:
        return {}
    try:
        table = json.loads((Path(found.origin).parent / _TABLE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return table if isinstance(table, dict) else {}


def _rates(entry: Mapping[str, Any]) -> Rates | None:
    base = _tier(entry, "")
    if base is None:
        return None
    sizes = sorted(int(found.group(1)) for key in entry if (found := _TIER.fullmatch(key)))
    tiers = [(size * 1000, rates) for size in sizes if (rates := _tier(entry, f"_above_{size}k_tokens"))]
    return Rates(base.input, base.output, base.cached, base.written, base.source, tuple(tiers))


def _tier(entry: Mapping[str, Any], suffix: str) -> Rates | None:
    """The table has dollars per token. What a tier does not name costs what it costs below it; written as read."""

    def rate(name: str) -> float | None:
        for key in (f"{name}{suffix}", name):
            value = entry.get(key)
            if isinstance(value, int | float) and math.isfinite(value) and value >= 0:
                return round(value * 1e6, 9)
        return None

    read, written = rate("input_cost_per_token"), rate("output_cost_per_token")
    if read is None or written is None:
        return None
    cached, kept = rate("cache_read_input_token_cost"), rate("cache_creation_input_token_cost")
    return Rates(read, written, read if cached is None else cached, read if kept is None else kept, "litellm's table")


def _picodollars(rate: float) -> int:
    """Of one token, at `rate` dollars per million: rounded up, so that a limit is never passed by rounding."""
    return math.ceil(round(rate * 1e6, 3))
