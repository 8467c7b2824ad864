"""Prices of a model are stated, or looked up in litellm's table without importing litellm."""

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sia_runner.config.components import HostedProvider, TokenPrices
from sia_runner.gateway import prices
from sia_runner.gateway.prices import PICO, Rates, price_of

TABLE = {
    "acme/small": {"litellm_provider": "acme", "input_cost_per_token": 2e-06, "output_cost_per_token": 1e-05},
    "gpt-x": {
        "litellm_provider": "openai",
        "input_cost_per_token": 1e-06,
        "output_cost_per_token": 4e-06,
        "cache_read_input_token_cost": 1e-07,
        "cache_creation_input_token_cost": 1.25e-06,
        "input_cost_per_token_above_200k_tokens": 2e-06,
        "output_cost_per_token_above_200k_tokens": 6e-06,
    },
    "shared": {"litellm_provider": "other", "input_cost_per_token": 1, "output_cost_per_token": 1},
    "acme/broken": {"litellm_provider": "acme", "input_cost_per_token": "cheap", "output_cost_per_token": None},
    "acme/negative": {"litellm_provider": "acme", "input_cost_per_token": -1, "output_cost_per_token": float("nan")},
}


@pytest.fixture
def table(monkeypatch):
    monkeypatch.setattr(prices, "_table", lambda: TABLE)


def hosted(model, litellm="acme", **keys):
    named = {"base_url": "https://models.example/v1"} | keys
    return HostedProvider(name="p", kind="hosted", api="openai", litellm=litellm, model=model, **named)


def test_the_table_is_asked_as_litellm_does_by_provider_and_model_and_then_by_model(table):
    assert price_of(hosted("small")) == Rates(2.0, 10.0, 2.0, 2.0, "litellm's table")
    price = price_of(hosted("gpt-x", "openai", base_url="https://api.openai.com/v1"))
    assert (price.input, price.output, price.cached, price.written) == (1.0, 4.0, 0.1, 1.25)


def test_what_the_experiment_says_wins(table):
    price = price_of(hosted("small", prices=TokenPrices(input=1.0, output=2.0, cached_input=0.5)))
    assert price == Rates(1.0, 2.0, 0.5, 1.0) and price.source == "provider.prices"
    assert price_of(hosted("small", prices=TokenPrices(input=0.0, output=0.0))).cost(10**6, 10**6) == 0


@pytest.mark.parametrize("model", ["unknown", "shared", "broken", "negative"])
def test_what_nobody_says_or_says_badly_is_unknown(table, model):
    assert price_of(hosted(model)) is None


@pytest.mark.parametrize("address", ["http://localhost:8000/v1", "https://openai.com.example/v1"])
def test_a_models_name_says_nothing_about_its_price_at_another_companys_address(table, address):
    assert price_of(hosted("gpt-x", "openai", base_url=address)) is None


def test_cached_input_has_its_own_price_and_long_requests_the_price_of_their_tier(table):
    rates = price_of(hosted("gpt-x", "openai", base_url="https://eu.api.openai.com/v1"))
    assert rates.cost(1000, 100) / PICO == pytest.approx(1000e-6 + 400e-6)
    assert rates.cost(1000, 100, cached_tokens=600, written_tokens=400) / PICO == pytest.approx(60e-6 + 500e-6 + 400e-6)
    assert rates.cost(200_001, 100) / PICO == pytest.approx(200_001 * 2e-6 + 600e-6)
    assert rates.cost(10, 0, cached_tokens=99) / PICO == pytest.approx(1e-6)


@given(st.integers(0, 10**7), st.integers(0, 10**6), st.integers(0, 10**7), st.integers(0, 10**7))
def test_what_is_reserved_is_never_less_than_what_the_same_tokens_cost(read, wrote, cached, written):
    rates = prices._rates(TABLE["gpt-x"])
    assert rates.cost(read, wrote, cached, written) <= rates.upper_bound(read, wrote)


def test_prices_come_from_litellms_data_without_importing_litellm():
    code = (
        "import sys; from sia_runner.gateway.prices import _table; assert len(_table()) > 1000;"
        "assert not {'litellm', 'aiohttp', 'openai'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
