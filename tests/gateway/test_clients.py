"""Unmodified clients of both companies, over every kind of provider."""

import json

import anthropic
import openai
import pytest

from tests.gateway.gateway_kit import HI
from tests.provider import Answer, Status

TEXT = "A word, an umlaut (ä), 漢字 and 🙂; " * 5
OPENAI_TOOLS = [{"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}]
ANTHROPIC_TOOLS = [{"name": "look", "input_schema": {"type": "object", "properties": {}}}]
APIS = pytest.mark.parametrize("api", ["openai", "anthropic", "litellm"])


@pytest.fixture
def served(scene, api):
    scene.otherwise = lambda requested: (
        Answer("let me see", tool_calls=(("look", {"at": "äöü"}),)) if requested.tools else Answer(TEXT)
    )
    return scene.open(api=api)


@APIS
def test_the_openai_client_gets_a_whole_answer(served):
    with served.session() as guest:
        answer = guest.openai().chat.completions.create(model="gpt-9", messages=HI)
    assert answer.choices[0].message.content == TEXT
    assert answer.choices[0].finish_reason == "stop"
    assert served.spent() == served.counted()


@APIS
def test_the_openai_client_streams(served):
    with served.session() as guest:
        chunks = list(guest.openai().chat.completions.create(model="gpt-9", messages=HI, stream=True))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == TEXT
    assert served.spent() == served.counted()


@APIS
def test_a_stream_says_what_it_used_only_to_a_client_that_asked(served):
    with served.session() as guest:
        ask = guest.openai().chat.completions.create
        silent = [chunk.usage for chunk in ask(model="m", messages=HI, stream=True)]
        options = {"include_usage": True}
        reported = [chunk.usage for chunk in ask(model="m", messages=HI, stream=True, stream_options=options)]
    assert not any(silent)
    assert reported[-1].total_tokens * 2 == pytest.approx(served.counted()[1], abs=20)
    assert served.spent() == served.counted()


@APIS
@pytest.mark.parametrize("stream", [False, True])
def test_the_openai_client_gets_tool_calls(served, stream):
    with served.session() as guest:
        answer = guest.openai().chat.completions.create(model="m", messages=HI, tools=OPENAI_TOOLS, stream=stream)
        if stream:
            deltas = [call for chunk in answer for choice in chunk.choices for call in choice.delta.tool_calls or ()]
            name = "".join(delta.function.name or "" for delta in deltas)
            arguments = "".join(delta.function.arguments or "" for delta in deltas)
        else:
            function = answer.choices[0].message.tool_calls[0].function
            name, arguments = function.name, function.arguments
    assert (name, json.loads(arguments)) == ("look", {"at": "äöü"})
    [call] = served.records()[0]["response"]["tool_calls"]
    assert (call["name"], json.loads(call["arguments"])) == ("look", {"at": "äöü"})


@APIS
def test_the_anthropic_client_gets_a_whole_answer(served):
    with served.session() as guest:
        answer = guest.anthropic().messages.create(model="claude", max_tokens=300, messages=HI)
    assert (answer.content[0].text, answer.stop_reason) == (TEXT, "end_turn")
    assert served.spent() == served.counted()


@APIS
def test_the_anthropic_client_streams(served):
    with served.session() as guest:
        with guest.anthropic().messages.stream(model="claude", max_tokens=300, messages=HI) as stream:
            assert "".join(stream.text_stream) == TEXT
    assert served.spent() == served.counted()


@APIS
@pytest.mark.parametrize("stream", [False, True])
def test_the_anthropic_client_gets_tool_calls(served, stream):
    settings = {"model": "claude", "max_tokens": 300, "messages": HI, "tools": ANTHROPIC_TOOLS}
    with served.session() as guest:
        if stream:
            with guest.anthropic().messages.stream(**settings) as events:
                answer = events.get_final_message()
        else:
            answer = guest.anthropic().messages.create(**settings)
    [call] = [block for block in answer.content if block.type == "tool_use"]
    assert (call.name, call.input) == ("look", {"at": "äöü"})
    [call] = served.records()[0]["response"]["tool_calls"]
    assert (call["name"], json.loads(call["arguments"])) == ("look", {"at": "äöü"})


@pytest.mark.parametrize("client", ["openai", "anthropic"])
def test_a_stream_of_reasoning_before_a_tool_call_reaches_both_clients(scene, client):
    """As guests call a model that thinks behind OpenAI's API."""
    scene.otherwise = lambda requested: Answer("", (("look", {"at": "äöü"}),), reasoning="so it is there; " * 20)
    served = scene.open(api="openai")
    with served.session() as guest:
        if client == "openai":
            chunks = guest.openai().chat.completions.create(model="m", messages=HI, tools=OPENAI_TOOLS, stream=True)
            deltas = [choice.delta for chunk in chunks for choice in chunk.choices]
            arguments = "".join(call.function.arguments or "" for d in deltas for call in d.tool_calls or ())
            assert "".join(getattr(delta, "reasoning_content", None) or "" for delta in deltas).count("there") == 20
            assert json.loads(arguments) == {"at": "äöü"}
        else:
            settings = {"model": "claude", "max_tokens": 300, "messages": HI, "tools": ANTHROPIC_TOOLS}
            with guest.anthropic().messages.stream(**settings) as events:
                answer = events.get_final_message()
            assert [block.input for block in answer.content if block.type == "tool_use"] == [{"at": "äöü"}]
    response = served.records()[0]["response"]
    assert response["reasoning"].count("there") == 20 and len(response["tool_calls"]) == 1
    assert served.spent() == served.counted()


@APIS
def test_a_tool_result_goes_back_to_the_model(served):
    call = {"id": "c1", "type": "function", "function": {"name": "look", "arguments": "{}"}}
    history = [
        *HI,
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": "a cat"},
    ]
    with served.session() as guest:
        guest.openai().chat.completions.create(model="m", messages=history, tools=OPENAI_TOOLS)
    assert "a cat" in json.dumps(served.server.requests[-1].body)


@APIS
def test_the_model_is_the_configured_one_whatever_the_harness_asks_for(served):
    with served.session() as guest:
        guest.ask()
        guest.anthropic().messages.create(model="a-stronger-one", max_tokens=300, messages=HI)
    assert {request.model for request in served.server.requests} == {"scripted"}
    assert [record["asked_model"] for record in served.records()] == ["any", "a-stronger-one"]


@APIS
def test_only_the_configured_model_is_listed(served):
    with served.session() as guest:
        assert [model.id for model in guest.openai().models.list()] == ["scripted"]
        assert [model.id for model in guest.anthropic().models.list()] == ["scripted"]
        assert guest.openai().models.retrieve("scripted").id == "scripted"
        with pytest.raises(openai.NotFoundError, match="scripted"):
            guest.openai().models.retrieve("other")


def test_both_base_urls_work_with_and_without_v1(scene):
    scene.open()
    with scene.session() as guest, guest.http() as http:
        for path in ("/v1/chat/completions", "/chat/completions", "/v1/messages", "/messages"):
            assert http.post(path, json={"messages": HI, "max_tokens": 9}).status_code == 200, path


def test_tokens_are_estimated_for_a_client_that_counts_them(scene):
    scene.open(api="anthropic")
    with scene.session() as guest:
        text = [{"role": "user", "content": "word " * 400}]
        counted = guest.anthropic().messages.count_tokens(model="m", messages=text).input_tokens
    assert 400 <= counted <= 800
    assert scene.counted()[0] == 0


@pytest.mark.parametrize("ask", [
    lambda guest: guest.openai().responses.create(model="m", input="hi"),
    lambda guest: guest.openai().embeddings.create(model="m", input="hi"),
    lambda guest: guest.openai().images.generate(prompt="hi"),
])  # fmt: skip
def test_what_is_not_served_says_what_is(scene, ask):
    scene.open()
    with (
        scene.session() as guest,
        pytest.raises(openai.NotFoundError, match="POST /v1/chat/completions"),
    ):
        ask(guest)


@APIS
@pytest.mark.parametrize(("status", "openai_error", "anthropic_error"), [
    (400, openai.BadRequestError, anthropic.BadRequestError),
    (422, openai.UnprocessableEntityError, anthropic.UnprocessableEntityError),
    (429, openai.RateLimitError, anthropic.RateLimitError),
    (500, openai.InternalServerError, anthropic.InternalServerError),
])  # fmt: skip
def test_clients_raise_their_usual_errors(scene, api, status, openai_error, anthropic_error):
    scene.open(api=api, attempts=1)
    scene.otherwise = Status(status, message="because of this")
    with scene.session() as guest:
        with pytest.raises(openai_error, match="because of this"):
            guest.ask()
        with pytest.raises(anthropic_error, match="because of this"):
            guest.anthropic().messages.create(model="m", max_tokens=9, messages=HI)
    assert scene.counted()[0] == 2  # the clients' own retries are told to keep out
