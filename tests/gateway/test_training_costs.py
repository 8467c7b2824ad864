"""What a service trains is in the ledger before it is sent, and held against the budget."""

import asyncio
import json
from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any

import pytest

from sia_runner.config.components import HostedProvider, TokenPrices
from sia_runner.config.experiment import BudgetConfig
from sia_runner.gateway.backends import LocalBackend
from sia_runner.gateway.service import GatewayService
from sia_runner.records import SampledCall
from sia_runner.wire.grants import BudgetSpent, Grant, ModelsError
from sia_runner.wire.requests import ModelRequest

PRICES = TokenPrices(input=1.0, output=3.0)
GRANT = Grant("learner", 2, "gen_2", "train", None)


class TrainedElsewhere:
    """A policy of a service; `charge` is what its learner calls."""

    def __init__(self, prices: TokenPrices | None = PRICES):
        self.training: TokenPrices | None = prices
        self.loaded = SimpleNamespace(charge=None)
        self.hosted = HostedProvider(
            name="tinker",
            kind="hosted",
            api="openai",
            litellm="openai",
            model="m",
            base_url="http://x/v1",
            prices=prices,
        )

    def check(self):
        pass

    def start(self):
        return self.loaded

    def close(self):
        pass

    def submit(self, request):
        raise NotImplementedError

    def decode(self, ids):
        raise NotImplementedError


@pytest.fixture
def service(tmp_path):
    opened = []

    def make(policy=None, **limits):
        opened.append(
            GatewayService(
                {}, tmp_path / "ledger", BudgetConfig(**limits), tmp_path, policy=policy or TrainedElsewhere()
            )
        )
        return opened[-1]

    yield make
    for each in opened:
        each.close()


def test_training_is_paid_for_by_its_update(service, tmp_path):
    gateway = service()
    with gateway.training_paid_by(GRANT):
        charge = gateway.policy().charge
        with charge(1_000, 0):
            lines = [json.loads(line) for path in (tmp_path / "ledger").glob("*.jsonl") for line in path.open()]
            assert [line["usd"] for line in lines if "sent" in line] == [0.001], "reserved before it is sent"
        with charge(0, 2_000):
            pass
    usage = gateway.ledger.usage(generation=2, candidate="gen_2")
    assert (usage.usd, usage.tokens, usage.calls) == (0.007, 3_000, 2)
    assert gateway.ledger.totals().of(candidate="gen_2", purpose="train").output_tokens == 2_000


def test_a_call_without_an_answer_stays_counted(service):
    gateway = service()
    with gateway.training_paid_by(GRANT), pytest.raises(RuntimeError), gateway.policy().charge(0, 2_000):
        raise RuntimeError
    assert gateway.ledger.usage().usd == 0.006


def test_a_step_that_the_budget_cannot_pay_is_not_sent(service):
    gateway, sent = service(usd=0.01, test_reserve=0.0), []
    with gateway.training_paid_by(GRANT):
        with gateway.policy().charge(0, 3_000):
            sent.append(1)
        with pytest.raises(BudgetSpent, match=r"budget\.usd=0\.01"), gateway.policy().charge(0, 1_000):
            sent.append(2)
    assert sent == [1]


def test_an_adapter_that_is_loaded_to_answer_is_counted_and_not_refused(service):
    gateway, loaded = service(usd=0.003, test_reserve=0.0), []
    for _ in range(4):
        with gateway.policy().charge(1_000, 0):
            loaded.append(1)
    assert len(loaded) == 4 and gateway.ledger.usage().calls == 3
    assert gateway.ledger.totals().of(candidate="adapter", purpose="train").input_tokens == 3_000


def test_a_limit_in_dollars_needs_the_prices(service):
    gateway = service(TrainedElsewhere(None), usd=1.0)
    with gateway.training_paid_by(GRANT), pytest.raises(ModelsError, match="learner role's model are not known"):
        with gateway.policy().charge(1, 0):
            pass


@pytest.mark.parametrize(("billed", "counted"), [(9, 9), (None, 2)])
def test_tokens_that_a_service_generates_behind_a_stop_string_are_counted(billed, counted):
    sampled: Future[SampledCall] = Future()
    sampled.set_result(SampledCall((1, 2, 3), (4, 5), (-1.0, -1.0), "stop", "base", "text", billed=billed))
    policy: Any = SimpleNamespace(submit=lambda request: sampled, decode=str)
    request = ModelRequest("openai", {"model": "m"}, False, "m", None, 16)
    buffer: Any = SimpleNamespace(hold=lambda response: None)
    summary = asyncio.run(LocalBackend(policy).send(request, buffer))
    assert (summary.input_tokens, summary.output_tokens) == (3, counted)
