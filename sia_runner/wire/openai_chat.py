"""OpenAI's chat completions API: requests, answers and streams."""

import time
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

_LIMITS = ("max_completion_tokens", "max_tokens")
_TYPES = {400: "invalid_request_error", 401: "authentication_error", 402: "insufficient_quota", 429: "rate_limit_error"}


class OpenAIChat:
    """OpenAI's chat completions API."""

    api: Api = "openai"

    def prepare(self, body: Body, hosted: HostedProvider) -> ModelRequest:
        """Normalise a client's request: model, completion bound, question id, usage. Raises CallError (bad_request)."""
        checked_messages(body)
        refuse_locked(body)
        refuse_tools(body.get("tools"), ("function", "custom"))
        if body.get("n") not in (None, 1):
            raise bad_request("n is at most 1 here: make several calls")
        stream, options = boolean_field(body, "stream"), body.get("stream_options")
        wants_usage = isinstance(options, dict) and bool(options.get("include_usage"))
        if stream:
            present = options if isinstance(options, dict) else {}
            body["stream_options"] = present | {"include_usage": True}  # a stream reports usage only on request
        limit = _limit(body, hosted)
        asked_model = str(body.get("model", ""))[:200]
        body["model"] = hosted.model
        return ModelRequest("openai", body, stream, asked_model, short_text(body.get("user")), limit, wants_usage)

    def read(self, body: Any) -> AnswerSummary:
        """Summarise a whole answer. Raises CallError (malformed)."""
        _raise_error(body)
        choices = body.get("choices") if isinstance(body, dict) else None
        first = choices[0] if isinstance(choices, list) and choices else None
        choice = first if isinstance(first, dict) else {}
        message = choice.get("message")
        if not isinstance(message, dict):
            raise CallError("malformed", "the provider's answer has no choices with a message")
        calls = [_call(call) for call in message.get("tool_calls") or () if isinstance(call, dict)]
        summary = AnswerSummary(_text(message.get("content")), calls, short_text(choice.get("finish_reason")))
        _note(summary, body)
        return summary

    def reader(self, request: ModelRequest) -> "_Reader":
        """Return a reader for one stream."""
        return _Reader(request.wants_usage)

    def respond(self, request: ModelRequest, sampled: SampledCall, decode: TokenDecoder) -> tuple[str, bytes]:
        """Return the finish reason, and the response for the client; `decode` shows a token as text."""
        head = {"id": f"chatcmpl-{uuid.uuid4().hex}", "created": int(time.time()), "model": request.body["model"]}
        logprobs = _logprobs(sampled, decode) if boolean_field(request.body, "logprobs") else None
        counts = len(sampled.prompt_ids), len(sampled.completion_ids)
        usage = {"prompt_tokens": counts[0], "completion_tokens": counts[1], "total_tokens": sum(counts)}
        last = {"index": 0, "logprobs": None, "finish_reason": sampled.finish_reason}
        if not request.stream:
            message = {"role": "assistant", "content": sampled.text, "refusal": None}
            choice = last | {"message": message, "logprobs": logprobs}
            answer = dumps(head | {"object": "chat.completion", "choices": [choice], "usage": usage})
            return sampled.finish_reason, answer
        head["object"] = "chat.completion.chunk"
        delta = {"role": "assistant", "content": sampled.text}
        first = {"index": 0, "delta": delta, "logprobs": logprobs, "finish_reason": None}
        chunks = [{"choices": [first]}, {"choices": [last | {"delta": {}}]}]
        if request.wants_usage:
            chunks.append({"choices": [], "usage": usage})
        events = [dumps(head | chunk) for chunk in chunks]
        return sampled.finish_reason, b"".join(map(sse_event, [*events, b"[DONE]"]))

    def error(self, status: int, failed: CallError) -> Body:
        """Return the JSON of an error as OpenAI writes it."""
        kind = _TYPES.get(status, "api_error" if status >= 500 else "invalid_request_error")
        return {"error": {"message": failed.message, "type": kind, "code": failed.code or failed.kind, "param": None}}

    def error_event(self, status: int, failed: CallError) -> bytes:
        """Return the error as an event of a stream."""
        return sse_event(dumps(self.error(status, failed)))


def _logprobs(sampled: SampledCall, decode: TokenDecoder) -> Body:
    tokens = [
        {"token": (text := decode([token])), "logprob": logprob, "bytes": list(text.encode()), "top_logprobs": []}
        for token, logprob in zip(sampled.completion_ids, sampled.logprobs, strict=True)
    ]
    return {"content": tokens, "refusal": None}


class _Reader:
    def __init__(self, wants_usage: bool) -> None:
        self._wants_usage = wants_usage
        self._summary = AnswerSummary()
        self._text: list[str] = []
        self._calls: dict[int, dict[str, Any]] = {}
        self.at_end = False

    def take(self, item: SseEvent) -> bytes:
        if not item.data:
            return b""  # a comment that keeps the connection alive
        if item.data.strip() == b"[DONE]":
            self.at_end = True
            return item.raw
        chunk = loads(item.data)
        _raise_error(chunk)
        if not isinstance(chunk, dict):
            raise CallError("malformed", "an event of the provider's stream is not an object")
        _note(self._summary, chunk)
        choices = chunk.get("choices")
        if choices:
            self._choice(choices[0] if isinstance(choices, list) else None)
        if self._wants_usage or chunk.pop("usage", None) is None:
            return item.raw
        return sse_event(dumps(chunk)) if choices else b""

    def _choice(self, choice: Any) -> None:
        if not isinstance(choice, dict):
            raise CallError("malformed", "a choice of the provider's stream is not an object")
        delta = choice.get("delta")
        if isinstance(delta, dict):
            self._text.append(_text(delta.get("content")))
            for call in delta.get("tool_calls") or ():
                self._call(call)
        self._summary.finish_reason = short_text(choice.get("finish_reason")) or self._summary.finish_reason

    def _call(self, piece: Any) -> None:
        if not isinstance(piece, dict):
            return
        delta_call = _call(piece)
        entry = self._calls.setdefault(token_count(piece.get("index")) or 0, {"id": "", "name": "", "arguments": []})
        entry["id"] = entry["id"] or delta_call["id"]
        entry["name"] = entry["name"] or delta_call["name"]
        entry["arguments"].append(delta_call["arguments"])

    def finish(self) -> AnswerSummary:
        if not self.at_end and self._summary.finish_reason is None:
            raise CallError("malformed", "the provider's stream was cut before its end")
        self._summary.text = "".join(self._text)
        calls = (self._calls[index] for index in sorted(self._calls))
        self._summary.tool_calls = [call | {"arguments": "".join(call["arguments"])} for call in calls]
        return self._summary


def _limit(body: Body, hosted: HostedProvider) -> int:
    """Put the completion bound into the request, under the name that its endpoint knows, and return it (tokens)."""
    bounds = [limit for name in _LIMITS if (limit := completion_bound(body, name)) is not None]
    limit = min(bounds, default=hosted.max_tokens)
    names = [name for name in _LIMITS if body.pop(name, None) is not None]
    newest = "//api.openai.com" in (hosted.base_url or "")  # its reasoning models refuse the older name
    name = "max_completion_tokens" if newest else (names or ["max_tokens"])[0]
    body[name] = limit
    return limit


def _raise_error(body: Any) -> None:
    """Raise CallError where the body is an error: some endpoints send one with status 200 or inside a stream."""
    error = body.get("error") if isinstance(body, dict) else None
    if error:
        code = error.get("code") if isinstance(error, dict) else None
        status = code if isinstance(code, int) and 400 <= code < 600 else 500
        raise error_of_status(status, {}, body)


def _note(summary: AnswerSummary, body: Body) -> None:
    summary.model = short_text(body.get("model")) or summary.model
    usage = body.get("usage")
    if not isinstance(usage, dict):
        return
    input_count, output_count, total = (
        token_count(usage.get(name)) for name in ("prompt_tokens", "completion_tokens", "total_tokens")
    )
    if input_count is not None and output_count is not None:
        # Gemini does not count thinking in completion_tokens, but bills it
        summary.input_tokens, summary.output_tokens = input_count, max(output_count, (total or 0) - input_count)
        details = usage.get("prompt_tokens_details")
        summary.cached_tokens = (token_count(details.get("cached_tokens")) or 0) if isinstance(details, dict) else 0


def _call(call: Body) -> dict[str, str]:
    function = call.get("function") or call.get("custom")
    named = function if isinstance(function, dict) else {}
    arguments = named.get("arguments", named.get("input")) or ""
    text = arguments if isinstance(arguments, str) else dumps(arguments).decode()
    return {"id": str(call.get("id") or ""), "name": str(named.get("name") or ""), "arguments": text}


def _text(content: Any) -> str:
    if isinstance(content, list):
        return "".join(_text(part.get("text")) for part in content if isinstance(part, dict))
    return content if isinstance(content, str) else ""
