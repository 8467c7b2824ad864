"""The requests, answers and streams of both APIs: OpenAI's chat completions and Anthropic's messages."""

import time
import uuid
from collections.abc import Mapping
from typing import Any

from sia_runner.config.components import HostedProvider
from sia_runner.records import SampledCall
from sia_runner.wire.failures import CallError, check_finish_reason, error_of_status
from sia_runner.wire.requests import (
    AnswerSummary,
    Api,
    Body,
    ModelRequest,
    SseEvent,
    SseSplitter,
    TokenDecoder,
    bad_request,
    boolean_field,
    check_body,
    completion_bound,
    dumps,
    loads,
    short_text,
    sse_event,
    token_count,
)

_LIMITS = ("max_completion_tokens", "max_tokens")
_MESSAGE_FIELDS = frozenset(
    {"content", "tool_calls", "function_call", "refusal", "reasoning", "reasoning_content", "audio"}
)
_OPENAI_TYPES = {401: "authentication_error", 402: "insufficient_quota", 429: "rate_limit_error"}
_CLIENT_TOOLS = ("custom", "bash_", "text_editor_", "computer_", "memory_")  # run by the client; others by the provider
_ANTHROPIC_TYPES = {
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
_ANTHROPIC_STATUS = {kind: status for status, kind in _ANTHROPIC_TYPES.items()}
_ERROR_CODES = frozenset(map(str, range(400, 600)))


class OpenAIChat:
    """OpenAI's chat completions API."""

    api: Api = "openai"

    def prepare(self, body: Body, hosted: HostedProvider) -> ModelRequest:
        """Normalise a client's request: model, completion bound, question id, usage. Raises CallError (bad_request)."""
        check_body(body, ("function", "custom"))
        if body.get("n") not in (None, 1):
            raise bad_request("n is at most 1 here: make several calls")
        stream, options = boolean_field(body, "stream"), body.get("stream_options")
        options = options if isinstance(options, dict) else {}
        if stream:
            body["stream_options"] = options | {"include_usage": True}  # a stream reports usage only on request
        bounds = [bound for name in _LIMITS if (bound := completion_bound(body, name)) is not None]
        limit = min(bounds, default=hosted.max_tokens)
        names = [name for name in _LIMITS if body.pop(name, None) is not None] or ["max_tokens"]
        newest = "//api.openai.com" in (hosted.base_url or "")  # its reasoning models refuse the older name
        body["max_completion_tokens" if newest else names[0]] = limit
        asked_model = str(body.get("model", ""))[:200]
        body["model"] = hosted.model
        question, wants_usage = short_text(body.get("user")), bool(options.get("include_usage"))
        return ModelRequest("openai", body, stream, asked_model, question, limit, wants_usage)

    def read(self, body: Any) -> AnswerSummary:
        """Summarise a whole answer. Raises CallError (malformed)."""
        choices = body.get("choices") if isinstance(body, dict) else None
        first = choices[0] if isinstance(choices, list) and choices else None
        choice = first if isinstance(first, dict) else {}
        message = choice.get("message")
        _raise_error(body, choice, message)
        if not isinstance(message, dict) or not message.keys() & _MESSAGE_FIELDS:
            raise CallError("malformed", f"the provider's answer has no choices with a message: {_excerpt(body)}")
        calls = [_openai_call(call) for call in _objects(message.get("tool_calls"))]
        summary = AnswerSummary(_openai_text(message.get("content")), calls, _reason(choice, "finish_reason"))
        summary.reasoning = _openai_reasoning(message)
        check_finish_reason(summary.finish_reason, complete=bool(summary.text or calls))
        _note_openai(summary, body)
        return summary

    def reader(self, request: ModelRequest) -> "_OpenAIReader":
        """Return a reader for the request's stream."""
        return _OpenAIReader(request.wants_usage)

    def assemble(self, request: ModelRequest, stream: bytes) -> tuple[AnswerSummary, bytes]:
        """Return a whole answer made of the stream of a server that answers no other way. Raises CallError."""
        reader = _OpenAIReader(wants_usage=False)
        for event in SseSplitter().feed(stream + b"\n\n"):
            reader.take(event)
        summary = reader.finish()
        calls = [_function_call(call) for call in summary.tool_calls]
        message: Body = {"role": "assistant", "content": summary.text if summary.text or not calls else None}
        message |= {"reasoning_content": summary.reasoning} if summary.reasoning else {}
        message |= {"tool_calls": calls} if calls else {}
        choice = {"index": 0, "message": message, "finish_reason": summary.finish_reason}
        usage, read, written = None, summary.input_tokens, summary.output_tokens
        if read is not None and written is not None:
            usage = {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}
        head = {"id": f"chatcmpl-{uuid.uuid4().hex}", "object": "chat.completion", "created": int(time.time())}
        model = summary.model or request.body["model"]
        return summary, dumps(head | {"model": model, "choices": [choice], "usage": usage})

    def respond(self, request: ModelRequest, sampled: SampledCall, decode: TokenDecoder) -> tuple[str, bytes]:
        """Return the API's finish reason for a policy's answer, and the response: one JSON, or a stream's events."""
        head = {"id": f"chatcmpl-{uuid.uuid4().hex}", "created": int(time.time()), "model": request.body["model"]}
        logprobs = _logprobs(sampled, decode) if boolean_field(request.body, "logprobs") else None
        counts = len(sampled.prompt_ids), len(sampled.completion_ids)
        usage = {"prompt_tokens": counts[0], "completion_tokens": counts[1], "total_tokens": sum(counts)}
        calls = [_function_call(call) for call in sampled.tool_calls]
        finish_reason = "tool_calls" if calls and sampled.finish_reason == "stop" else sampled.finish_reason
        last = {"index": 0, "logprobs": None, "finish_reason": finish_reason}
        content = sampled.text if sampled.text or not calls else None
        if not request.stream:
            message = {"role": "assistant", "content": content, "refusal": None}
            message |= {"tool_calls": calls} if calls else {}
            choice = last | {"message": message, "logprobs": logprobs}
            answer = dumps(head | {"object": "chat.completion", "choices": [choice], "usage": usage})
            return finish_reason, answer
        head["object"] = "chat.completion.chunk"
        delta: Body = {"role": "assistant", "content": content}
        delta |= {"tool_calls": [{"index": at, **call} for at, call in enumerate(calls)]} if calls else {}
        first = {"index": 0, "delta": delta, "logprobs": logprobs, "finish_reason": None}
        chunks = [{"choices": [first]}, {"choices": [last | {"delta": {}}]}]
        if request.wants_usage:
            chunks.append({"choices": [], "usage": usage})
        events = [dumps(head | chunk) for chunk in chunks]
        return finish_reason, b"".join(map(sse_event, [*events, b"[DONE]"]))

    def error(self, status: int, failed: CallError) -> Body:
        """Return the JSON of an error as OpenAI writes it."""
        kind = _OPENAI_TYPES.get(status, _error_type(status))
        return {"error": {"message": failed.message, "type": kind, "code": failed.code or failed.kind, "param": None}}


def _function_call(call: Mapping[str, str]) -> Body:
    """Return a call of a tool as OpenAI writes it."""
    return {"id": call["id"], "type": "function", "function": {"name": call["name"], "arguments": call["arguments"]}}


def _logprobs(sampled: SampledCall, decode: TokenDecoder) -> Body:
    tokens = [
        {"token": (text := decode([token])), "logprob": logprob, "bytes": list(text.encode()), "top_logprobs": []}
        for token, logprob in zip(sampled.completion_ids, sampled.logprobs, strict=True)
    ]
    return {"content": tokens, "refusal": None}


class _StreamReader:
    """Follows a stream of one API. `at_end`: the last event was the API's end mark."""

    def __init__(self) -> None:
        self._summary, self._text, self._reasoning = AnswerSummary(), list[str](), list[str]()
        self.at_end = False

    def _event(self, item: SseEvent) -> Body:
        event = loads(item.data)
        _raise_error(event)
        if item.raw.startswith(b"event: error"):
            raise error_of_status(500, {}, event)
        if not isinstance(event, dict):
            raise CallError("malformed", "an event of the provider's stream is not an object")
        return event

    def _finish(self, finish_reason: str | None, calls: list[dict[str, str]]) -> AnswerSummary:
        check_finish_reason(finish_reason, complete=False)
        self._summary.text, self._summary.reasoning = "".join(self._text), "".join(self._reasoning)
        self._summary.tool_calls = calls
        return self._summary


class _OpenAIReader(_StreamReader):
    def __init__(self, wants_usage: bool) -> None:
        super().__init__()
        self._wants_usage = wants_usage
        self._calls: list[dict[str, Any]] = []

    def take(self, item: SseEvent) -> bytes:
        """Return what the client shall see of an event. Raises CallError for an invalid one."""
        if not item.data:
            return b""  # a comment that keeps the connection alive
        if item.data.strip() == b"[DONE]":
            self.at_end = True
            return item.raw
        chunk = self._event(item)
        _note_openai(self._summary, chunk)
        choices = chunk.get("choices")
        renumbered = bool(choices) and self._choice(choices[0] if isinstance(choices, list) else None)
        if (self._wants_usage or chunk.pop("usage", None) is None) and not renumbered:
            return item.raw
        return sse_event(dumps(chunk)) if choices else b""

    def _choice(self, choice: Any) -> bool:
        """Take a choice; return whether an index of its tool calls had to be set right for the client."""
        if not isinstance(choice, dict):
            raise CallError("malformed", "a choice of the provider's stream is not an object")
        delta, renumbered = choice.get("delta"), False
        _raise_error(choice, delta)
        if isinstance(delta, dict):
            self._text.append(_openai_text(delta.get("content")))
            self._reasoning.append(_openai_reasoning(delta))
            for piece in _objects(delta.get("tool_calls")):
                renumbered |= self._tool_call(piece)
        if reason := _reason(choice, "finish_reason"):
            check_finish_reason(reason, complete=False)
            self._summary.finish_reason = reason
        return renumbered

    def _tool_call(self, piece: Body) -> bool:
        """Take a piece of a call; some servers give all calls one index, or none. Return whether it was set right."""
        call, index = _openai_call(piece), token_count(piece.get("index"))
        entry = next((e for e in reversed(self._calls) if index is None or e["index"] == index), None)
        if entry and call["id"] and entry["id"] and call["id"] != entry["id"]:
            entry = next((e for e in self._calls if e["id"] == call["id"]), None)
        elif entry and index is None and not call["id"] and call["name"] and any(entry["arguments"]):
            entry = None
        if entry is None:
            entry = {"index": index, "position": len(self._calls), "id": "", "name": "", "arguments": []}
            self._calls.append(entry)
        entry["id"], entry["name"] = entry["id"] or call["id"], entry["name"] or call["name"]
        entry["arguments"].append(call["arguments"])
        piece["index"] = entry["position"]
        return index != entry["position"]

    def finish(self) -> AnswerSummary:
        """Return the summary. Raises CallError when the stream was cut before its end, whatever mark it ends with."""
        calls = [
            {"id": call["id"], "name": call["name"], "arguments": "".join(call["arguments"])} for call in self._calls
        ]
        return self._finish(self._summary.finish_reason, calls)


def _raise_error(*levels: Any) -> None:
    """Raise CallError where a level of an answer is an error: some endpoints send it with status 200 or in a stream."""
    for level in (level for level in levels if isinstance(level, dict)):
        error = level.get("error")
        if error or level.get("type") == "error":
            fields = error if isinstance(error, dict) else {}
            code, kind = str(fields.get("code")), short_text(fields.get("type")) or ""
            status = int(code) if code in _ERROR_CODES else _ANTHROPIC_STATUS.get(kind, 500)
            raise error_of_status(status, {}, level if error else {"error": level})


def _reason(data: Body, name: str) -> str | None:
    value = data.get(name)
    if value is not None and not isinstance(value, str):
        raise CallError("malformed", f"the provider's answer has {name} {_excerpt(value)}")
    return short_text(value)


def _excerpt(value: Any) -> str:
    """Return the beginning of a body that is no answer: it may be an error in a shape of the provider's own."""
    return dumps(value)[:200].decode(errors="replace")


def _objects(value: Any) -> list[Body]:
    return [entry for entry in value if isinstance(entry, dict)] if isinstance(value, list) else []


def _error_type(status: int) -> str:
    return "api_error" if status >= 500 else "invalid_request_error"


def _note_openai(summary: AnswerSummary, body: Body) -> None:
    summary.model = short_text(body.get("model")) or summary.model
    usage = body.get("usage")
    if not isinstance(usage, dict):
        return
    names = ("prompt_tokens", "completion_tokens", "total_tokens")
    input_count, output_count, total = (token_count(usage.get(name)) for name in names)
    if input_count is not None and output_count is not None:
        # Gemini does not count thinking in completion_tokens, but bills it
        summary.input_tokens, summary.output_tokens = input_count, max(output_count, (total or 0) - input_count)
        details = usage.get("prompt_tokens_details")
        summary.cached_tokens = (token_count(details.get("cached_tokens")) or 0) if isinstance(details, dict) else 0


def _openai_call(call: Body) -> dict[str, str]:
    function = call.get("function") or call.get("custom")
    named = function if isinstance(function, dict) else {}
    arguments = named.get("arguments", named.get("input")) or ""
    text = arguments if isinstance(arguments, str) else dumps(arguments).decode()
    return {"id": str(call.get("id") or ""), "name": str(named.get("name") or ""), "arguments": text}


def _openai_reasoning(message: Body) -> str:
    """Return the thinking beside an answer: DeepSeek's and vLLM's field, or OpenRouter's and Ollama's."""
    texts = (message.get(name) for name in ("reasoning_content", "reasoning"))
    return next((text for text in texts if isinstance(text, str) and text), "")


def _openai_text(content: Any) -> str:
    if isinstance(content, list):
        return "".join(_openai_text(part.get("text")) for part in _objects(content))
    if content is not None and not isinstance(content, str):
        raise CallError("malformed", f"the provider's answer has the content {_excerpt(content)}")
    return content or ""


class AnthropicMessages:
    """Anthropic's messages API."""

    api: Api = "anthropic"

    def prepare(self, body: Body, hosted: HostedProvider) -> ModelRequest:
        """Normalise a client's request: model, completion bound and question id. Raises CallError (bad_request)."""
        check_body(body, _CLIENT_TOOLS)
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
        content = body.get("content") if isinstance(body, dict) else None
        blocks = _objects(content)
        _raise_error(body, *blocks)
        if not isinstance(content, list) or len(blocks) < len(content):
            raise CallError("malformed", f"the provider's answer has no content: {_excerpt(body)}")
        text = "".join(_openai_text(block.get("text")) for block in blocks if block.get("type") == "text")
        uses = [block for block in blocks if block.get("type") == "tool_use"]
        calls = [_anthropic_call(block, dumps(block.get("input") or {}).decode()) for block in uses]
        summary = AnswerSummary(text, calls, _reason(body, "stop_reason"), short_text(body.get("model")))
        summary.reasoning = "".join(str(block.get("thinking") or "") for block in blocks)
        check_finish_reason(summary.finish_reason, complete=bool(text or calls))
        _note_anthropic(summary, body.get("usage"))
        return summary

    def reader(self, request: ModelRequest) -> "_AnthropicReader":
        """Return a reader for the request's stream."""
        del request
        return _AnthropicReader()

    def respond(self, request: ModelRequest, sampled: SampledCall, decode: TokenDecoder) -> tuple[str, bytes]:
        """Return the API's finish reason for a policy's answer, and the response: one JSON, or a stream's events."""
        del decode  # this API shows no logprobs
        finish_reason = "end_turn" if sampled.finish_reason == "stop" else "max_tokens"
        reason = {"stop_reason": finish_reason, "stop_sequence": None}
        output_usage = {"output_tokens": len(sampled.completion_ids)}
        content, usage = [{"type": "text", "text": sampled.text}], {"input_tokens": len(sampled.prompt_ids)}
        message: Body = {"id": f"msg_{uuid.uuid4().hex}", "type": "message", "role": "assistant"}
        message |= {"model": request.body["model"], "content": content, **reason, "usage": usage | output_usage}
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
        kind = _ANTHROPIC_TYPES.get(status, _error_type(status))
        return {"type": "error", "error": {"type": kind, "message": failed.message}}


class _AnthropicReader(_StreamReader):
    def __init__(self) -> None:
        super().__init__()
        self._calls: dict[int, tuple[Body, list[str]]] = {}

    def take(self, item: SseEvent) -> bytes:
        if not item.data:
            return b""
        data = self._event(item)
        kind, index = data.get("type"), token_count(data.get("index")) or 0
        if kind == "message_start":
            message = _object(data, "message")
            self._summary.model = short_text(message.get("model"))
            _note_anthropic(self._summary, message.get("usage"))
        elif kind == "content_block_start" and (block := _object(data, "content_block")).get("type") == "tool_use":
            self._calls[index] = (block, [])
        elif kind == "content_block_delta":
            delta = _object(data, "delta")
            if delta.get("type") == "text_delta":
                self._text.append(_openai_text(delta.get("text")))
            elif delta.get("type") == "thinking_delta":
                self._reasoning.append(str(delta.get("thinking") or ""))
            elif delta.get("type") == "input_json_delta" and index in self._calls:
                self._calls[index][1].append(str(delta.get("partial_json") or ""))
        elif kind == "message_delta":
            self._summary.finish_reason = _reason(_object(data, "delta"), "stop_reason") or self._summary.finish_reason
            _note_anthropic(self._summary, data.get("usage"))
        elif kind == "message_stop":
            self.at_end = True
        return item.raw

    def finish(self) -> AnswerSummary:
        calls = [_anthropic_call(block, "".join(pieces) or "{}") for block, pieces in self._calls.values()]
        return self._finish(self._summary.finish_reason if self.at_end else None, calls)


def _object(data: Body, name: str) -> Body:
    value = data.get(name)
    if not isinstance(value, dict):
        raise CallError("malformed", f"an event of the provider's stream has no {name}")
    _raise_error(value)
    return value


def _anthropic_call(block: Body, arguments: str) -> dict[str, str]:
    return {"id": str(block.get("id") or ""), "name": str(block.get("name") or ""), "arguments": arguments}


def _note_anthropic(summary: AnswerSummary, usage: Any) -> None:
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


Dialect = OpenAIChat | AnthropicMessages
DIALECTS: Mapping[Api, Dialect] = {"openai": OpenAIChat(), "anthropic": AnthropicMessages()}


def check_is_stream(dialect: Dialect, splitter: SseSplitter) -> None:
    """Raise CallError, with the provider's words, for what came with status 200 in place of a stream."""
    if content := splitter.other_content():
        answer = loads(content)
        dialect.read(answer)  # raises where it is an error
        raise CallError("malformed", f"the provider's answer is no stream, which was asked for: {_excerpt(answer)}")
