"""Requests of a hostile harness: bounded, refused in the API's own shape, and no way out of the sandbox."""

import json
import socket

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.gateway.gateway_kit import HI
from tests.provider import Answer

PICTURE = "https://example.org/steal?what=1"
OPENAI_PICTURE = {"role": "user", "content": [{"type": "image_url", "image_url": {"url": PICTURE}}]}
ANTHROPIC_PICTURE = {"role": "user", "content": [{"type": "image", "source": {"type": "url", "url": PICTURE}}]}
IN_A_RESULT = {
    "role": "user",
    "content": [{"type": "tool_result", "tool_use_id": "x", "content": ANTHROPIC_PICTURE["content"]}],
}


@pytest.mark.parametrize("api", ["openai", "litellm"])
@pytest.mark.parametrize(("path", "body"), [
    ("chat/completions", {}),
    ("chat/completions", {"messages": []}),
    ("chat/completions", {"messages": "hi"}),
    ("chat/completions", {"messages": [7]}),
    ("chat/completions", {"messages": HI, "n": 2}),
    ("chat/completions", {"messages": HI, "max_tokens": -1}),
    ("chat/completions", {"messages": HI, "max_tokens": "9"}),
    ("chat/completions", {"messages": HI, "max_completion_tokens": True}),
    ("chat/completions", {"messages": HI, "stream": "yes"}),
    ("chat/completions", {"messages": HI, "tools": {"type": "function"}}),
    ("chat/completions", {"messages": HI, "tools": [{"type": "web_search"}]}),
    ("chat/completions", {"messages": HI, "tools": [{"type": "mcp", "server_url": PICTURE}]}),
    ("chat/completions", {"messages": HI, "web_search_options": {"search_context_size": "low"}}),
    ("chat/completions", {"messages": HI, "plugins": [{"id": "web"}]}),
    ("chat/completions", {"messages": HI, "models": ["a-stronger-one"]}),
    ("chat/completions", {"messages": HI, "service_tier": "priority"}),
    ("chat/completions", {"messages": [OPENAI_PICTURE]}),
    ("messages", {"messages": HI, "max_tokens": 0}),
    ("messages", {"messages": HI, "metadata": "q"}),
    ("messages", {"messages": HI, "mcp_servers": [{"url": PICTURE}]}),
    ("messages", {"messages": HI, "tools": [{"type": "web_search_20250305", "name": "web_search"}]}),
    ("messages", {"messages": HI, "tools": [{"type": "code_execution_20250522", "name": "code"}]}),
    ("messages", {"messages": [ANTHROPIC_PICTURE]}),
    ("messages", {"messages": [IN_A_RESULT]}),
])  # fmt: skip
def test_what_may_not_be_asked_is_refused_before_it_is_sent(scene, api, path, body):
    scene.open(api=api)
    with scene.session() as guest, guest.http() as http:
        answer = http.post(f"/v1/{path}", json=body)
    assert answer.status_code == 400
    assert answer.json()["error"]["message"]
    assert answer.headers["x-should-retry"] == "false"
    assert (scene.records()[0]["error"]["kind"], scene.records()[0]["attempts"]) == ("bad_request", 0)
    assert scene.counted()[0] == scene.spent()[0] == 0


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"\xff\xfe", b"[" * 100_000, b'{"messages": ' + b"[" * 5000])
def test_a_body_that_is_no_object_is_refused(scene, body):
    scene.open()
    with scene.session() as guest, guest.http() as http:
        assert http.post("/v1/chat/completions", content=body).status_code == 400


def test_any_depth_of_nesting_is_served_or_refused(scene):
    scene.open(attempts=1)
    with scene.session() as guest, guest.http() as http:
        for path in ("chat/completions", "messages/count_tokens"):
            for depth in range(850, 1010, 10):
                body = b'{"messages": [{"role": "user", "content": "x"}], "metadata": {"x": %s%s}}' % (
                    b"[" * depth,
                    b"]" * depth,
                )
                assert http.post(f"/v1/{path}", content=body).status_code in (200, 400), depth


def test_a_request_is_bounded_in_size(scene):
    scene.open()
    with scene.session() as guest, guest.http() as http:
        answer = http.post("/v1/messages", content=b'{"x": "' + b"a" * (9 << 20) + b'"}')
        assert (answer.status_code, answer.json()["error"]["type"]) == (413, "request_too_large")
        assert http.post("/v1/messages", json={"messages": HI}).status_code == 200


def test_an_absurd_completion_bound_is_cut(scene):
    scene.open()
    with scene.session() as guest, guest.http() as http:
        assert http.post("/v1/chat/completions", json={"messages": HI, "max_tokens": 10**12}).status_code == 200
        assert http.post("/v1/messages", json={"messages": HI, "max_tokens": 10**12}).status_code == 200
    assert {request.body["max_tokens"] for request in scene.server.requests} == {131_072}


def test_a_request_without_a_bound_gets_the_providers(scene):
    scene.open(max_tokens=77)
    with scene.session() as guest, guest.http() as http:
        http.post("/v1/chat/completions", json={"messages": HI})
        http.post("/v1/messages", json={"messages": HI})
    assert [request.body["max_tokens"] for request in scene.server.requests] == [77, 77]


def test_refused_requests_cannot_fill_the_disk(scene, monkeypatch):
    monkeypatch.setattr("sia_runner.gateway.session._MAX_REFUSED_RECORDS", 3)
    scene.open()
    with scene.session() as guest, guest.http() as http:
        for _ in range(9):
            assert http.post("/v1/chat/completions", json={"messages": "no"}).status_code == 400
        guest.ask()
    assert [record["attempts"] for record in scene.records()] == [0, 0, 0, 1]


def test_unknown_fields_pass_through(scene):
    scene.open()
    with scene.session() as guest, guest.http() as http:
        http.post("/v1/chat/completions", json={"messages": HI, "top_k": 7, "min_p": 0.1, "guided_regex": "a+"})
    body = scene.server.requests[-1].body
    assert (body["top_k"], body["min_p"], body["guided_regex"]) == (7, 0.1, "a+")


@pytest.mark.parametrize(
    ("api", "path"), [("litellm", "chat/completions"), ("anthropic", "chat/completions"), ("openai", "messages")]
)
def test_a_translated_request_cannot_redirect_the_key(scene, api, path):
    scene.open(api=api)
    elsewhere = "http://127.0.0.1:9/v1"
    evil = {
        "api_base": elsewhere,
        "base_url": elsewhere,
        "api_key": "x",
        "custom_llm_provider": "groq",
        "num_retries": 5,
    }
    evil |= {"extra_headers": {"authorization": "x"}, "mock_response": "free", "headers": {"a": "b"}}
    with scene.session() as guest, guest.http() as http:
        answer = http.post(f"/v1/{path}", json={"messages": HI, "max_tokens": 9, **evil})
    assert answer.status_code == 200
    assert "free" not in answer.text
    assert scene.counted()[0] == 1


def test_a_picture_may_be_sent_as_data(scene):
    scene.open()
    picture = {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}]}
    with scene.session() as guest, guest.http() as http:
        assert http.post("/v1/chat/completions", json={"messages": [picture]}).status_code == 200


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
PATHS = st.sampled_from(["chat/completions", "messages", "messages/count_tokens"])
FIELDS = st.sampled_from(
    [
        "messages",
        "model",
        "tools",
        "stream",
        "stream_options",
        "max_tokens",
        "n",
        "user",
        "metadata",
        "content",
        "system",
    ]
)


def test_any_json_gets_an_answer_or_a_refusal(scene):
    scene.open()
    with scene.session() as guest, guest.http() as http:

        @settings(max_examples=60, deadline=None)
        @given(PATHS, st.dictionaries(FIELDS, JSON), st.booleans())
        def post(path, body, valid):
            answer = http.post(f"/v1/{path}", content=json.dumps(body | ({"messages": HI} if valid else {})))
            assert answer.status_code in (200, 400), answer.text

        post()


def test_a_header_that_is_none_reaches_no_provider(scene):
    scene.open(api="anthropic", attempts=1)
    with scene.session() as guest, guest.http() as http:
        odd = [(b"anthropic-beta", b"\xff\xfe"), (b"anthropic-version", b"2023-06-01"), (b"x-other", b"1")]
        assert http.post("/v1/messages", json={"messages": HI}, headers=odd).status_code == 200
    forwarded = scene.server.requests[0].headers
    assert forwarded["anthropic-version"] == "2023-06-01"
    assert not {"anthropic-beta", "x-other"} & set(forwarded)


def test_what_is_no_http_prints_nothing_and_harms_nobody(scene, capfd):
    scene.open()
    with scene.session() as guest:
        for garbage in (
            b"\x00\xff" * 500,
            b"GET / HTTP/9.9\r\n\r\n",
            b"POST /v1/messages HTTP/1.1\r\nContent-Length: x\r\n\r\n",
        ):
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(str(guest.session.address.socket))
                client.sendall(garbage)
                client.shutdown(socket.SHUT_WR)
                client.recv(1 << 16)
        assert guest.ask() == "hello"
    assert capfd.readouterr() == ("", "")


def test_a_lone_surrogate_passes(scene):
    scene.open()
    scene.otherwise = Answer("fine")
    with scene.session() as guest, guest.http() as http:
        body = b'{"messages": [{"role": "user", "content": "\\ud800"}], "user": "\\udfff"}'
        assert http.post("/v1/chat/completions", content=body).status_code == 200
    assert scene.records()[0]["question"] == "?"
