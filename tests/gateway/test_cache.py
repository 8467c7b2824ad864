"""Answers kept on disk: for the same request by another sandbox, never in place of a second sample."""

import pytest

from tests.gateway.gateway_kit import HI
from tests.provider import Answer, Status


@pytest.fixture
def cached(scene):
    scene.otherwise = lambda request: Answer(f"answer {request.n}")
    return scene.open(cache=True, attempts=1)


def test_the_same_request_of_another_visit_costs_nothing(cached):
    for _ in range(2):
        with cached.session() as guest:
            assert guest.ask("what?") == "answer 0"
    assert cached.counted()[0] == cached.spent()[0] == 1
    assert [record["cached"] for record in cached.records()] == [False, True]
    assert [record["usd"] > 0 for record in cached.records()] == [True, False]


@pytest.mark.parametrize("api", ["openai", "anthropic"])
def test_a_stream_is_kept_too(cached, api):
    def stream(guest):
        if api == "openai":
            chunks = guest.openai().chat.completions.create(model="m", messages=HI, stream=True)
            return "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
        with guest.anthropic().messages.stream(model="m", max_tokens=9, messages=HI) as events:
            return "".join(events.text_stream)

    for _ in range(2):
        with cached.session() as guest:
            assert stream(guest) == "answer 0"
    assert cached.counted()[0] == 1


def test_two_samples_of_one_question_are_two_answers_and_come_again_as_two(cached):
    for _ in range(2):
        with cached.session() as guest:
            assert [guest.ask("again") for _ in range(3)] == ["answer 0", "answer 1", "answer 2"]
    assert cached.counted()[0] == 3


@pytest.mark.parametrize("change", [{"temperature": 0.5}, {"seed": 1}, {"max_tokens": 5}, {"stop": ["x"]}])
def test_any_change_of_the_request_is_another_request(cached, change):
    with cached.session() as guest:
        guest.ask()
    with cached.session() as guest:
        guest.ask(**change)
    assert cached.counted()[0] == 2


def test_who_asks_is_no_part_of_the_request(cached):
    with cached.session() as guest:
        guest.ask(user="q1")
    with cached.session() as guest:
        guest.ask(user="q2")
    assert cached.counted()[0] == 1


def test_rollouts_are_never_answered_from_the_cache(cached):
    for sample in range(2):
        with cached.session(purpose="rollout", sample=sample) as guest:
            assert guest.ask() == f"answer {sample}"


def test_a_failure_is_not_kept(cached):
    cached.reactions = [Status(400)]
    with cached.session() as guest, guest.http() as http:
        assert http.post("/v1/chat/completions", json={"messages": HI}).status_code == 400
    with cached.session() as guest, guest.http() as http:
        assert http.post("/v1/chat/completions", json={"messages": HI}).status_code == 200


def test_half_a_kept_stream_reaches_no_client(cached):
    def stream(guest):
        chunks = guest.openai().chat.completions.create(model="m", messages=HI, stream=True)
        return "".join(chunk.choices[0].delta.content or "" for chunk in chunks)

    with cached.session() as guest:
        assert stream(guest) == "answer 0"
    [stored] = [path for path in (cached.folder / "cache").rglob("*") if path.is_file()]
    stored.write_bytes(stored.read_bytes()[:400])
    with cached.session() as guest:
        assert stream(guest) == "answer 1"


def test_what_cannot_be_read_any_more_is_asked_again(cached):
    with cached.session() as guest:
        guest.ask()
    [stored] = [path for path in (cached.folder / "cache").rglob("*") if path.is_file()]
    stored.write_bytes(stored.read_bytes()[:20])
    for _ in range(2):
        with cached.session() as guest:
            assert guest.ask() == "answer 1"
