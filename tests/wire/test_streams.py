"""What servers stream in shapes of their own: tool calls without proper indices, and thinking beside the answer."""

import json

import pytest

from sia_runner.records import SampledCall
from sia_runner.wire.dialects import DIALECTS
from sia_runner.wire.requests import ModelRequest, SseSplitter, loads, sse_event

A, B = ("call_a", "read", '{"path": "a"}'), ("call_b", "write", '{"path": "b"}')


def piece(call, arguments, *, opens=True, index=None, with_id=True):
    named = {"function": {"name": call[1], "arguments": arguments}} if opens else {"function": {"arguments": arguments}}
    head = {"id": call[0], "type": "function"} if opens and with_id else {}
    return head | named | ({} if index is None else {"index": index})


def halves(call, **settings):
    return [
        [piece(call, call[2][:5], **settings)],
        [piece(call, call[2][5:], opens=False, index=settings.get("index"))],
    ]


SHAPES = {
    "proper indices": [*halves(A, index=0), *halves(B, index=1)],
    "one index": [*halves(A, index=0), *halves(B, index=0)],
    "no index": [*halves(A), *halves(B)],
    "no index and no id": [*halves(A, with_id=False), *halves(B, with_id=False)],
    "both in one chunk, one index": [[piece(A, A[2], index=0), piece(B, B[2], index=0)]],
    "both in one chunk, no index": [[piece(A, A[2]), piece(B, B[2])]],
    "interleaved": [
        [piece(A, A[2][:5], index=0), piece(B, B[2][:5], index=1)],
        [piece(A, A[2][5:], opens=False, index=0), piece(B, B[2][5:], opens=False, index=1)],
    ],
    "indices that begin at 1": [*halves(A, index=1), *halves(B, index=2)],
}


def read(api, events):
    """Return the summary of a stream, and the events that the client sees."""
    reader = DIALECTS[api].reader(ModelRequest(api, {}, True, "m", None, 10))
    seen = [reader.take(event) for data in events for event in SseSplitter().feed(sse_event(data))]
    return reader.finish(), [event.data for data in seen for event in SseSplitter().feed(data)]


def openai_stream(deltas):
    chunks = [{"choices": [{"index": 0, "delta": delta, "finish_reason": None}]} for delta in deltas]
    chunks.append({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
    return [*(json.dumps(chunk).encode() for chunk in chunks), b"[DONE]"]


@pytest.mark.parametrize("pieces", SHAPES.values(), ids=SHAPES.keys())
def test_two_tool_calls_stay_two_for_the_record_and_for_the_client(pieces):
    summary, seen = read("openai", openai_stream([{"tool_calls": calls} for calls in pieces]))
    ids = [call["id"] for call in summary.tool_calls]
    assert [(call["name"], call["arguments"]) for call in summary.tool_calls] == [A[1:], B[1:]]
    assert ids in (["call_a", "call_b"], ["", ""])
    glued = {}  # as OpenAI's client does it
    for data in seen[:-1]:
        for call in loads(data)["choices"][0]["delta"].get("tool_calls", []):
            glued[call["index"]] = glued.get(call["index"], "") + call["function"]["arguments"]
    assert glued == {0: A[2], 1: B[2]}


@pytest.mark.parametrize("field", ["reasoning_content", "reasoning"])
def test_thinking_beside_an_empty_answer_is_kept(field):
    message = {"role": "assistant", "content": None, field: "so it is 4"}
    summary = DIALECTS["openai"].read({"choices": [{"message": message, "finish_reason": "length"}]})
    assert (summary.text, summary.reasoning) == ("", "so it is 4")
    streamed, _ = read("openai", openai_stream([{"content": None, field: "so it "}, {field: "is 4"}]))
    assert (streamed.text, streamed.reasoning) == ("", "so it is 4")


def test_the_thinking_of_the_other_api_is_kept_too():
    content = [{"type": "thinking", "thinking": "so it is 4", "signature": "s"}, {"type": "text", "text": "4"}]
    body = {"type": "message", "content": content, "stop_reason": "end_turn"}
    assert DIALECTS["anthropic"].read(body).reasoning == "so it is 4"
    events = [
        {"type": "message_start", "message": {"model": "m"}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "thinking_delta", "thinking": "so it is 4"}},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}},
        {"type": "message_stop"},
    ]
    summary, _ = read("anthropic", [json.dumps(event).encode() for event in events])
    assert summary.reasoning == "so it is 4"


def test_a_policys_call_of_a_tool_is_answered_as_openai_does():
    call = {"id": "call_1", "name": "weather", "arguments": '{"city": "Bern"}'}
    sampled = SampledCall((1,), (2, 3), (-1.0, -1.0), "stop", "base", "", (call,))
    for stream in (False, True):
        request = ModelRequest("openai", {"model": "m"}, stream, "m", "q", 9)
        reason, answer = DIALECTS["openai"].respond(request, sampled, str)
        summary = DIALECTS["openai"].assemble(request, answer)[0] if stream else DIALECTS["openai"].read(loads(answer))
        assert (reason, summary.finish_reason, summary.tool_calls, summary.text) == ("tool_calls",) * 2 + ([call], "")
