"""The price of a model: the experiment's own `provider.prices`, else the table that litellm ships, else unknown."""

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

from sia_runner.config.components import HostedProvider

PICO = 10**12  # prices are summed in whole picodollars, so that rounding cannot pass a limit
_TABLE = "model_prices_and_context_window_backup.json"
_TIER = re.compile(r"input_cost_per_token_above_(\d+)k_tokens")
# At other hosts these names only mean "speaks their protocol", so the model's name does not tell its price.
_HOME_DOMAINS = {"openai": "openai.com", "anthropic": "anthropic.com"}


@dataclass(frozen=True, slots=True)
class Rates:
    """Prices in US dollars per million tokens."""

    input: float
    output: float
    cached: float  # of input read from the provider's cache
    written: float  # of input written to it
    source: str = "provider.prices"
    tiers: tuple[tuple[int, "Rates"], ...] = ()  # rising: a call with more input tokens has these rates as a whole

    def cost(self, input_tokens: int, output_tokens: int, cached_tokens: int = 0, written_tokens: int = 0) -> int:
        """Return the price in picodollars. `cached_tokens` and `written_tokens` are parts of `input_tokens`."""
        rates = self._at(input_tokens)
        cached = min(cached_tokens, input_tokens)
        written = min(written_tokens, input_tokens - cached)
        counts = (input_tokens - cached - written, cached, written, output_tokens)
        prices = (rates.input, rates.cached, rates.written, rates.output)
        return sum(count * _picodollars(price) for count, price in zip(counts, prices, strict=True))

    def upper_bound(self, input_tokens: int, output_tokens: int) -> int:
        """Return picodollars if all input were of the dearest kind: the reservation before a call."""
        rates = self._at(input_tokens)
        dearest = max(rates.input, rates.cached, rates.written)
        return input_tokens * _picodollars(dearest) + output_tokens * _picodollars(rates.output)

    def _at(self, input_tokens: int) -> "Rates":
        return next((rates for above, rates in reversed(self.tiers) if input_tokens > above), self)


def price_of(hosted: HostedProvider) -> Rates | None:
    """Return the model's rates; None where they are not known."""
    own = hosted.prices
    if own is not None:
        cached = own.input if own.cached_input is None else own.cached_input
        return Rates(own.input, own.output, cached, own.input)
    home, host = _HOME_DOMAINS.get(hosted.litellm), urlsplit(hosted.base_url or "").hostname
    if home and host and host != home and not host.endswith(f".{home}"):
        return None
    for name in (f"{hosted.litellm}/{hosted.model}", hosted.model):
        entry = _table().get(name)
        if isinstance(entry, Mapping) and entry.get("litellm_provider") == hosted.litellm:
            return _rates(entry)
    return None


@lru_cache(maxsize=1)
def _table() -> Mapping[str, Any]:
    """Read litellm's prices (3 MB, once) without importing it, which costs seconds; empty where there are none."""
    spec = importlib.util.find_spec("litellm")
    if spec is None or spec.origin is None:
        return {}
    try:
        return json.loads((Path(spec.origin).parent / _TABLE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def _rates(entry: Mapping[str, Any], tier: str = "") -> Rates | None:
    """Return the rates of an entry or of its `tier`, which has the base's price where it names none."""

    def rate(name: str) -> float | None:
        for key in (f"{name}{tier}", name):
            value = entry.get(key)
            if isinstance(value, int | float) and math.isfinite(value) and value >= 0:
                return round(value * 1e6, 9)
        return None

    read, output = rate("input_cost_per_token"), rate("output_cost_per_token")
    if read is None or output is None:
        return None
    cached, written = rate("cache_read_input_token_cost"), rate("cache_creation_input_token_cost")
    sizes = [] if tier else sorted(int(match.group(1)) for key in entry if (match := _TIER.fullmatch(key)))
    tiers = [(size * 1000, rates) for size in sizes if (rates := _rates(entry, f"_above_{size}k_tokens"))]
    cached, written = read if cached is None else cached, read if written is None else written
    return Rates(read, output, cached, written, "litellm's table", tuple(tiers))


def _picodollars(rate: float) -> int:
    """Return one token's price at `rate` dollars per million, rounded up so that no limit is passed by rounding."""
    return math.ceil(round(rate * 1e6, 3))
