"""One ledger for all calls: what the provider counted, within the limits, whatever failed in between."""

import random
import time

import openai
import pytest

from sia_runner.config.experiment import BudgetConfig, SpendingLimits
from sia_runner.records import OutcomeKind
from sia_runner.wire.grants import BudgetSpent
from tests.gateway.gateway_kit import HI
from tests.provider import Answer, Reset, Status


@pytest.mark.slow
def test_the_ledger_equals_the_providers_own_count_under_64_callers_and_failures(scene):
    scene.open(attempts=8, concurrency=64)
    dice = random.Random(7)

    def react(request):
        del request
        lucky = Answer("x" * dice.randrange(1, 200), delay=dice.uniform(0, 0.02))
        return dice.choices([lucky, Status(429), Status(500)], [8, 1, 1])[0]

    scene.otherwise = react
    with scene.session() as guest:
        answers = guest.ask_all([f"q{n}" for n in range(640)], threads=64)
    assert not [answer for answer in answers if not isinstance(answer, str)]
    assert scene.spent() == scene.counted()
    assert len(scene.records()) == 640
    assert sum(record["attempts"] for record in scene.records()) == scene.server.tally.calls
    assert len({record["call"] for record in scene.records()}) == 640


def test_a_call_whose_answer_never_came_is_counted_at_what_was_reserved(scene):
    scene.open(attempts=1)
    scene.otherwise = Reset()
    with scene.session() as guest, pytest.raises(openai.APIError):
        guest.ask(max_tokens=1000)
    calls, tokens = scene.spent()
    assert calls == scene.counted()[0] == 1
    assert tokens > 1000


@pytest.mark.parametrize("seed", range(3))
def test_a_limit_in_dollars_holds_under_concurrent_callers(scene, seed):
    dice = random.Random(seed)
    limit = 0.02
    scene.open(BudgetConfig(usd=limit, test_reserve=0.0), concurrency=32)
    scene.otherwise = lambda _: Answer("x" * dice.randrange(400), delay=dice.uniform(0, 0.01))
    with scene.session() as guest:
        answers = guest.ask_all([f"{n} " + "word " * dice.randrange(200) for n in range(300)], threads=32)
        trouble = guest.session.trouble()
    usage = scene.models.ledger.usage()
    assert 0.9 * limit < usage.usd <= limit
    assert scene.spent() == scene.counted()
    assert isinstance(trouble, BudgetSpent) and trouble.scope == "run"
    assert any(isinstance(answer, openai.APIStatusError) for answer in answers)


def test_who_would_only_crowd_the_limit_waits_for_a_call_to_settle(scene):
    scene.open(BudgetConfig(tokens=1000, test_reserve=0.0))
    scene.otherwise = Answer("short", delay=0.2)
    with scene.session() as guest:
        answers = guest.ask_all(["a", "b", "c"], threads=3)  # each reserves some 200 of 1000; two more would not fit
        assert answers == ["short"] * 3
        began = time.monotonic()
        messages = [{"role": "user", "content": "x"}]
        client = guest.openai()
        answers = [client.chat.completions.create(model="m", messages=messages, max_tokens=400) for _ in range(2)]
    assert time.monotonic() - began >= 0.4
    assert scene.spent() == scene.counted()


def test_a_spent_budget_is_a_status_that_no_client_tries_again(scene):
    scene.open(BudgetConfig(calls=1, test_reserve=0.0))
    with scene.session() as guest:
        guest.ask(user="a")
        began = time.monotonic()
        with pytest.raises(openai.APIStatusError, match=r"budget\.calls=1") as raised:
            guest.ask(user="b")
        assert time.monotonic() - began < 1
        assert guest.session.faults().questions == {"b": OutcomeKind.BUDGET}
    assert raised.value.status_code == 402
    assert scene.counted()[0] == 1
    assert scene.records()[1]["error"]["kind"] == "budget"


def test_a_generations_limit_is_no_trouble_of_the_run(scene):
    scene.open(BudgetConfig(generation=SpendingLimits(calls=1), test_reserve=0.0))
    with scene.session() as guest:
        guest.ask()
        with pytest.raises(openai.APIStatusError):
            guest.ask()
        assert guest.session.trouble() is None
    with scene.session(generation=2, candidate="gen_2") as guest:
        assert guest.ask() == "hello"


def test_a_guest_agents_turns_are_bounded_by_its_grant(scene):
    scene.open()
    with scene.session(calls=2) as guest:
        guest.ask()
        guest.ask()
        with pytest.raises(openai.APIStatusError, match="2 calls"):
            guest.ask()


def test_chat_raises_what_ended_the_budget(scene):
    scene.open(BudgetConfig(calls=1, test_reserve=0.0))
    scene.models.chat(scene.grant(role="meta", purpose="propose"), HI, [])
    with pytest.raises(BudgetSpent) as raised:
        scene.models.chat(scene.grant(role="meta", purpose="propose"), HI, [])
    assert raised.value.scope == "run"
