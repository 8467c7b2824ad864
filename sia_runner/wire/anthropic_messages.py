"""Anthropic's messages API: requests, answers and streams."""

import uuid
from typing import Any

from sia_runner.config.components import HostedProvider
from sia_runner.records import SampledCall
from sia_runner.wire.failures import CallError, error_of_status
from sia_runner.wire.requests import (
    AnswerSummary,
    Api,
    Body,
    ModelRequest,
    SseEvent,
    TokenDecoder,
    bad_request,
    boolean_field,
    checked_messages,
    completion_bound,
    dumps,
    loads,
    refuse_locked,
    refuse_tools,
    short_text,
    sse_event,
    token_count,
)

_CLIENT_TOOLS = ("custom", "bash_", "text_editor_", "computer_", "memory_")  # run by the client; others by the provider
_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    504: "timeout_error",
    529: "overloaded_error",
}
_STATUS = {kind: status for status, kind in _TYPES.items()}


class AnthropicMessages:
    """Anthropic's messages API."""

    api: Api = "anthropic"

    def prepare(self, body: Body, hosted: HostedProvider) -> ModelRequest:
        """Normalise a client's request: model, completion bound and question id. Raises CallError (bad_request)."""
        checked_messages(body)
        refuse_locked(body)
        refuse_tools(body.get("tools"), _CLIENT_TOOLS)
        limit = completion_bound(body, "max_tokens") or hosted.max_tokens
        asked_model = str(body.get("model", ""))[:200]
        metadata = body.get("metadata")
        if metadata is not None and not isinstance(metadata, dict):
            raise bad_request("metadata must be an object")
        body |= {"model": hosted.model, "max_tokens": limit}
        question = short_text((metadata or {}).get("user_id"))
        return ModelRequest("anthropic", body, boolean_field(body, "stream"), asked_model, question, limit)

    def read(self, body: Any) -> AnswerSummary:
        """Summarise a whole answer. Raises CallError (malformed)."""
        _raise_error(body)
        content = body.get("content") if isinstance(body, dict) else None
        if not isinstance(content, list):
            raise CallError("malformed", "the provider's answer has no content")
        blocks = [block for block in content if isinstance(block, dict)]
        summary = AnswerSummary(
            "".join(str(block.get("text") or "") for block in blocks if block.get("type") == "text")
        )
        summary.tool_calls = [
            _call(block, dumps(block.get("input") or {}).decode()) for block in blocks if _is_call(block)
        ]
        summary.finish_reason = short_text(body.get("stop_reason"))
        summary.model = short_text(body.get("model"))
        _note(summary, body.get("usage"))
        return summary

    def reader(self, request: ModelRequest) -> "_Reader":
        """Return a reader for one stream."""
        del request
        return _Reader()

    def respond(self, request: ModelRequest, sampled: SampledCall, decode: TokenDecoder) -> tuple[str, bytes]:
        """Return the finish reason, and the response for the client."""
        del decode  # this API shows no logprobs
        finish_reason = "end_turn" if sampled.finish_reason == "stop" else "max_tokens"
        reason = {"stop_reason": finish_reason, "stop_sequence": None}
        output_usage = {"output_tokens": len(sampled.completion_ids)}
        message: Body = {
            "id": f"msg_{uuid.uuid4().hex}",
            "type": "message",
            "role": "assistant",
            "model": request.body["model"],
            "content": [{"type": "text", "text": sampled.text}],
            **reason,
            "usage": {"input_tokens": len(sampled.prompt_ids), **output_usage},
        }
        if not request.stream:
            return finish_reason, dumps(message)
        events: list[Body] = [
            {"type": "message_start", "message": message | {"content": [], "stop_reason": None}},
            {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
            {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": sampled.text}},
            {"type": "content_block_stop", "index": 0},
            {"type": "message_delta", "delta": reason, "usage": output_usage},
            {"type": "message_stop"},
        ]
        return finish_reason, b"".join(sse_event(dumps(event), event["type"]) for event in events)

    def error(self, status: int, failed: CallError) -> Body:
        """Return the JSON of an error as Anthropic writes it."""
        kind = _TYPES.get(status, "api_error" if status >= 500 else "invalid_request_error")
        return {"type": "error", "error": {"type": kind, "message": failed.message}}

    def error_event(self, status: int, failed: CallError) -> bytes:
        """Return the error as an event of a stream."""
        return sse_event(dumps(self.error(status, failed)), "error")


class _Reader:
    def __init__(self) -> None:
        self._summary = AnswerSummary()
        self._text: list[str] = []
        self._calls: dict[int, tuple[Body, list[str]]] = {}
        self.at_end = False

    def take(self, item: SseEvent) -> bytes:
        if not item.data:
            return b""
        data = loads(item.data)
        _raise_error(data)
        if not isinstance(data, dict):
            raise CallError("malformed", "an event of the provider's stream is not an object")
        kind, index = data.get("type"), token_count(data.get("index")) or 0
        if kind == "message_start":
            message = _object(data, "message")
            self._summary.model = short_text(message.get("model"))
            _note(self._summary, message.get("usage"))
        elif kind == "content_block_start" and _is_call(_object(data, "content_block")):
            self._calls[index] = (_object(data, "content_block"), [])
        elif kind == "content_block_delta":
            self._delta(index, _object(data, "delta"))
        elif kind == "message_delta":
            self._summary.finish_reason = short_text(_object(data, "delta").get("stop_reason"))
            _note(self._summary, data.get("usage"))
        elif kind == "message_stop":
            self.at_end = True
        return item.raw

    def _delta(self, index: int, delta: Body) -> None:
        if delta.get("type") == "text_delta":
            self._text.append(str(delta.get("text") or ""))
        elif delta.get("type") == "input_json_delta" and index in self._calls:
            self._calls[index][1].append(str(delta.get("partial_json") or ""))

    def finish(self) -> AnswerSummary:
        if not self.at_end:
            raise CallError("malformed", "the provider's stream was cut before its end")
        self._summary.text = "".join(self._text)
        self._summary.tool_calls = [_call(block, "".join(pieces) or "{}") for block, pieces in self._calls.values()]
        return self._summary


def _object(data: Body, name: str) -> Body:
    value = data.get(name)
    if not isinstance(value, dict):
        raise CallError("malformed", f"an event of the provider's stream has no {name}")
    return value


def _raise_error(body: Any) -> None:
    if isinstance(body, dict) and body.get("type") == "error":
        error = body.get("error")
        kind = error.get("type") if isinstance(error, dict) else None
        raise error_of_status(_STATUS.get(kind or "", 500), {}, body)


def _is_call(block: Body) -> bool:
    return block.get("type") == "tool_use"


def _call(block: Body, arguments: str) -> dict[str, str]:
    return {"id": str(block.get("id") or ""), "name": str(block.get("name") or ""), "arguments": arguments}


def _note(summary: AnswerSummary, usage: Any) -> None:
    """Copy token counts; a stream's end may correct its start. Anthropic counts cached input apart."""
    if not isinstance(usage, dict):
        return
    input_count, output_count = token_count(usage.get("input_tokens")), token_count(usage.get("output_tokens"))
    if input_count is not None:
        summary.cached_tokens = token_count(usage.get("cache_read_input_tokens")) or 0
        summary.written_tokens = token_count(usage.get("cache_creation_input_tokens")) or 0
        summary.input_tokens = input_count + summary.cached_tokens + summary.written_tokens
    if output_count is not None:
        summary.output_tokens = output_count
