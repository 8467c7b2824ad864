"""Streams as they come: in any pieces, with any nonsense in them."""

import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sia_runner.wire.dialects import AnthropicMessages, OpenAIChat
from sia_runner.wire.failures import CallError, retry_after
from sia_runner.wire.requests import Body, ModelRequest, SseEvent, SseSplitter, sse_event

DIALECTS = [OpenAIChat(), AnthropicMessages()]


def asked(api) -> ModelRequest:
    body: Body = {"messages": []}
    return ModelRequest(api, body, True, "m", None, 10)


@given(
    st.lists(st.binary(min_size=1, max_size=20).filter(lambda data: not {10, 13} & set(data)), max_size=8), st.data()
)
def test_events_are_the_same_in_whatever_pieces_they_come(payloads, data):
    stream = b"".join(
        sse_event(payload, "x").replace(b"\n", data.draw(st.sampled_from([b"\n", b"\r\n"]))) for payload in payloads
    )
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=10)))
    splitter, data_parts = SseSplitter(), []
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        data_parts += [item.data for item in splitter.feed(stream[start:end])]
    assert data_parts == payloads


def test_an_endless_event_in_small_pieces_takes_linear_time():
    splitter = SseSplitter()
    began = time.perf_counter()
    for _ in range(100_000):
        assert not list(splitter.feed(b"data: " + b"a" * 90))
    assert time.perf_counter() - began < 5


KEYS = [
    *("choices", "delta", "message", "content", "tool_calls", "function", "index", "usage", "type", "error", "id"),
    *("content_block", "text", "arguments", "name", "custom", "input", "prompt_tokens", "completion_tokens"),
    *("input_tokens", "output_tokens", "prompt_tokens_details", "finish_reason", "stop_reason", "model", "code"),
]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=4),
    max_leaves=10,
)


@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda item: item.api)
@given(body=JSON)
def test_any_answer_is_read_or_malformed(dialect, body):
    try:
        summary = dialect.read(body)
    except CallError:
        return
    assert isinstance(summary.text, str)
    assert summary.input_tokens is None or summary.input_tokens >= 0
    assert all(isinstance(value, str) for call in summary.tool_calls for value in call.values())


@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda item: item.api)
@given(st.lists(JSON | st.binary(max_size=9), max_size=6))
def test_any_stream_is_read_or_malformed(dialect, events):
    reader = dialect.reader(asked(dialect.api))
    try:
        for item in events:
            data = item if isinstance(item, bytes) else json.dumps(item).encode()
            assert isinstance(reader.take(SseEvent(sse_event(data), data)), bytes)
        assert isinstance(reader.finish().text, str)
    except CallError:
        pass


@pytest.mark.parametrize("value", ["", "soon", "Wed", "-", "nan", "inf", "9" * 400])
def test_a_retry_after_that_is_none_does_no_harm(value):
    seconds = retry_after({"retry-after": value})
    assert seconds is None or seconds >= 0


def test_thinking_that_gemini_leaves_out_of_the_completion_is_counted():
    usage = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 115}
    answer = {"choices": [{"message": {"content": "x"}}], "usage": usage}
    assert OpenAIChat().read(answer).output_tokens == 105


def test_anthropics_cached_input_is_part_of_the_input():
    usage = {"input_tokens": 10, "cache_read_input_tokens": 100, "cache_creation_input_tokens": 7, "output_tokens": 1}
    summary = AnthropicMessages().read({"content": [], "stop_reason": "end_turn", "usage": usage})
    assert (summary.input_tokens, summary.cached_tokens, summary.written_tokens) == (117, 100, 7)
