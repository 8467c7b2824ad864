"""What an endpoint does not take is sent otherwise, and what it does to requests is said once."""

import json
import logging
import sys

import openai
import pytest

from tests.gateway.gateway_kit import HI
from tests.provider import Answer, Malformed, Status

NEWER = "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead."
OLDER = "Extra inputs are not permitted: max_completion_tokens"
SAMPLING = "Unsupported value: 'temperature' does not support 0.2 with this model. Only the default (1) is supported."


def refusing(field, words, code=400):
    return lambda request: Status(code, message=words) if field in request.body else Answer("hello")


@pytest.mark.parametrize(
    ("sent", "words", "taken"),
    [("max_tokens", NEWER, "max_completion_tokens"), ("max_completion_tokens", OLDER, "max_tokens")],
)
@pytest.mark.parametrize("code", [400, 422])
def test_the_completion_bound_has_the_name_that_the_endpoint_takes_from_then_on(scene, sent, words, taken, code):
    scene.open(attempts=1)
    scene.otherwise = refusing(sent, words, code)
    with scene.session() as guest:
        assert [guest.ask(**{sent: 50}) for _ in range(3)] == ["hello"] * 3
        assert guest.session.faults().questions == {}
    assert scene.counted()[0] == 4  # refused once, then remembered
    assert scene.spent()[0] == 4
    assert all(request.body[taken] == 50 for request in list(scene.server.requests)[1:])
    assert scene.records()[0]["request"][taken] == 50 and scene.records()[0]["attempts"] == 2


def test_a_temperature_that_is_refused_is_left_out_and_said_once(scene, caplog):
    scene.open(attempts=1)
    scene.otherwise = refusing("temperature", f"{SAMPLING} test-key")
    with caplog.at_level(logging.WARNING), scene.session() as guest:
        assert guest.ask_all(["a", "b"], 2) == ["hello"] * 2  # several may be under way when the first is refused
        assert guest.ask(temperature=0.2) == guest.ask(temperature=0.7) == "hello"
    told = [record.getMessage() for record in caplog.records if "temperature" in record.getMessage()]
    assert len(told) == 1 and SAMPLING in told[0] and "left out" in told[0] and "test-key" not in told[0]
    notices = [record.get("notice", "") for record in scene.records()]
    assert len([n for n in notices if SAMPLING in n and "left out" in n]) == 2 and "test-key" not in "".join(notices)


def test_the_runners_own_calls_are_adapted_too(scene):
    scene.open()
    scene.otherwise = refusing("max_tokens", NEWER)
    assert scene.models.chat(scene.grant(role="meta"), HI, [], max_tokens=9).text == "hello"


@pytest.mark.parametrize(
    "words",
    [
        "max_tokens is too large: 100000. This model supports at most 16384 completion tokens",
        "temperature must be at most 2",
        "unknown field 'foo'",
    ],
)
def test_another_refusal_is_not_sent_again(scene, words):
    scene.open()
    scene.otherwise = Status(400, message=words)
    with scene.session() as guest, pytest.raises(openai.BadRequestError):
        guest.ask(temperature=5)
    assert scene.counted()[0] == 1


def test_an_endpoint_that_refuses_both_names_is_asked_twice(scene):
    scene.open()
    scene.otherwise = Status(400, message=NEWER)
    with scene.session() as guest, pytest.raises(openai.BadRequestError, match="max_completion_tokens"):
        guest.ask()
    assert scene.counted()[0] == 2


ONLY_STREAMS = "This model only support stream mode, please enable the stream parameter to access the model."


def test_a_server_that_only_streams_answers_requests_that_want_a_whole_answer(scene):
    scene.open(attempts=1)
    answer = Answer("hello", reasoning="think", tool_calls=(("look", {"at": 1}),), input_tokens=12, output_tokens=7)
    scene.otherwise = lambda request: answer if request.body.get("stream") else Status(400, message=ONLY_STREAMS)
    with scene.session() as guest:
        asked = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
        first, second = (guest.openai().chat.completions.create(**asked) for _ in range(2))
        assert guest.session.faults().questions == {}
    assert first.choices[0].message.content == second.choices[0].message.content == "hello"
    assert first.choices[0].message.tool_calls[0].function.arguments == '{"at": 1}'
    assert first.choices[0].finish_reason == "tool_calls" and first.usage.total_tokens == 19
    assert scene.counted()[0] == 3  # refused once, then remembered
    assert [record["attempts"] for record in scene.records()] == [2, 1]
    assert all("put together" in record["notice"] for record in scene.records())
    assert scene.models.chat(scene.grant(role="meta"), HI, [], max_tokens=9).text == "hello"


@pytest.mark.parametrize("mark", ["data: [DONE]\n\n", ""])
def test_a_stream_that_nobody_wanted_is_put_together_unless_it_was_cut(scene, mark):
    scene.open(attempts=1)
    chunks = [{"delta": {"content": "hel"}}, {"delta": {"content": "lo"}}, {"delta": {}, "finish_reason": "stop"}]
    events = [f"data: {json.dumps({'choices': [{'index': 0, **chunk}]})}\n\n" for chunk in chunks]
    scene.otherwise = Malformed("".join(events) + mark)
    with scene.session() as guest:
        assert guest.ask() == "hello"
        scene.otherwise = Malformed("".join(events[:2]) + mark)
        with pytest.raises(openai.APIStatusError):
            guest.ask()


LONG = "All work and no play makes Jack a dull boy. " * 2000  # about 20,000 tokens


@pytest.mark.parametrize(("tokens", "cut"), [(4096, True), (20_000, False)])
def test_a_prompt_that_the_server_cuts_is_said_once_with_the_setting(scene, caplog, tokens, cut):
    scene.open()
    scene.otherwise = Answer("hello", input_tokens=tokens)
    with caplog.at_level(logging.WARNING), scene.session() as guest:
        guest.ask(LONG)
        guest.ask(LONG)
    told = [record.getMessage() for record in caplog.records if "OLLAMA_CONTEXT_LENGTH" in record.getMessage()]
    assert len(told) == (1 if cut else 0)
    assert ["OLLAMA_CONTEXT_LENGTH" in record.get("notice", "") for record in scene.records()] == [cut, cut]
    assert cut or all("notice" not in record for record in scene.records())


def test_short_prompts_and_pictures_are_no_cut_prompts(scene, caplog):
    scene.open()
    scene.otherwise = Answer("hello", input_tokens=20)
    picture = [{"type": "image_url", "image_url": {"url": f"data:image/png;base64,{'A' * 40_000}"}}]
    with caplog.at_level(logging.WARNING), scene.session() as guest:
        guest.ask()
        guest.openai().chat.completions.create(model="m", messages=[{"role": "user", "content": picture}])
    assert not [record for record in caplog.records if "context" in record.getMessage()]


@pytest.mark.parametrize(("code", "loaded"), [("import anthropic", True), ("import openai", False), ("", False)])
def test_what_translates_is_loaded_before_the_harness_and_its_clock_start(scene, monkeypatch, code, loaded):
    from sia_runner.gateway import backends

    calls = []
    monkeypatch.setattr(backends.LitellmBackend, "ready", lambda self: _note(calls))
    scene.open(api="openai")
    with scene.models.open_session(scene.grant(), code):
        assert bool(calls) == loaded


async def _note(calls):
    calls.append(sys.modules.get("litellm"))
