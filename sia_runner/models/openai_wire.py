"""OpenAI's chat completions."""

from typing import Any

from sia_runner.models import sse
from sia_runner.models.failures import Failed, refused
from sia_runner.models.refusals import bad_request, flag, messages_of, positive, refuse_locked, refuse_tools
from sia_runner.models.sse import Event
from sia_runner.models.wire import Api, Asked, Body, Summary, count, dumps, loads, text_id
from sia_runner.schema.provider import Hosted

_LIMITS = ("max_completion_tokens", "max_tokens")
_TYPES = {400: "invalid_request_error", 401: "authentication_error", 402: "insufficient_quota", 429: "rate_limit_error"}


class OpenAI:
    api: Api = "openai"

    def prepare(self, body: Body, hosted: Hosted) -> Asked:
        messages_of(body)
        refuse_locked(body)
        refuse_tools(body.get("tools"), ("function", "custom"))
        if body.get("n") not in (None, 1):
            raise bad_request("n is at most 1 here: make several calls")
        stream, options = flag(body, "stream"), body.get("stream_options")
        wants_usage = isinstance(options, dict) and bool(options.get("include_usage"))
        if stream:
            kept = options if isinstance(options, dict) else {}
            body["stream_options"] = kept | {"include_usage": True}  # what a stream used is said only when asked for
        limit = _limit(body, hosted)
        asked_model = str(body.get("model", ""))[:200]
        body["model"] = hosted.model
        return Asked("openai", body, stream, asked_model, text_id(body.get("user")), limit, wants_usage)

    def read(self, body: Any) -> Summary:
        _raise_error(body)
        choices = body.get("choices") if isinstance(body, dict) else None
        first = choices[0] if isinstance(choices, list) and choices else None
        choice = first if isinstance(first, dict) else {}
        message = choice.get("message")
        if not isinstance(message, dict):
            raise Failed("malformed", "the provider's answer has no choices with a message")
        calls = [_call(one) for one in message.get("tool_calls") or () if isinstance(one, dict)]
        summary = Summary(_text(message.get("content")), calls, text_id(choice.get("finish_reason")))
        _note(summary, body)
        return summary

    def reader(self, asked: Asked) -> "_Reader":
        return _Reader(asked.wants_usage)

    def error(self, status: int, failed: Failed) -> Body:
        kind = _TYPES.get(status, "api_error" if status >= 500 else "invalid_request_error")
        return {"error": {"message": failed.message, "type": kind, "code": failed.code or failed.kind, "param": None}}

    def error_event(self, status: int, failed: Failed) -> bytes:
        return sse.event(dumps(self.error(status, failed)))


class _Reader:
    def __init__(self, wants_usage: bool) -> None:
        self._wants_usage = wants_usage
        self._summary = Summary()
        self._text: list[str] = []
        self._calls: dict[int, dict[str, Any]] = {}
        self.ended = False

    def take(self, event: Event) -> bytes:
        if not event.data:
            return b""  # a comment that keeps the connection alive
        if event.data.strip() == b"[DONE]":
            self.ended = True
            return event.raw
        chunk = loads(event.data)
        _raise_error(chunk)
        if not isinstance(chunk, dict):
            raise Failed("malformed", "an event of the provider's stream is no object")
        _note(self._summary, chunk)
        choices = chunk.get("choices")
        if choices:
            self._choice(choices[0] if isinstance(choices, list) else None)
        if self._wants_usage or chunk.pop("usage", None) is None:
            return event.raw
        return sse.event(dumps(chunk)) if choices else b""

    def _choice(self, choice: Any) -> None:
        if not isinstance(choice, dict):
            raise Failed("malformed", "a choice of the provider's stream is no object")
        delta = choice.get("delta")
        if isinstance(delta, dict):
            self._text.append(_text(delta.get("content")))
            for call in delta.get("tool_calls") or ():
                self._call(call)
        self._summary.finish_reason = text_id(choice.get("finish_reason")) or self._summary.finish_reason

    def _call(self, piece: Any) -> None:
        if not isinstance(piece, dict):
            return
        given = _call(piece)
        known = self._calls.setdefault(count(piece.get("index")) or 0, {"id": "", "name": "", "arguments": []})
        known["id"] = known["id"] or given["id"]
        known["name"] = known["name"] or given["name"]
        known["arguments"].append(given["arguments"])

    def finish(self) -> Summary:
        if not self.ended and self._summary.finish_reason is None:
            raise Failed("malformed", "the provider's stream was cut before its end")
        self._summary.text = "".join(self._text)
        calls = (self._calls[index] for index in sorted(self._calls))
        self._summary.tool_calls = [call | {"arguments": "".join(call["arguments"])} for call in calls]
        return self._summary


def _limit(body: Body, hosted: Hosted) -> int:
    """The completion bound, put into the request under the one name that its endpoint knows."""
    given = [limit for name in _LIMITS if (limit := positive(body, name)) is not None]
    limit = min(given, default=hosted.max_tokens)
    names = [name for name in _LIMITS if body.pop(name, None) is not None]
    newest = "//api.openai.com" in (hosted.base_url or "")  # whose reasoning models refuse the older name
    name = "max_completion_tokens" if newest else (names or ["max_tokens"])[0]
    body[name] = limit
    return limit


def _raise_error(body: Any) -> None:
    """Some endpoints say errors with status 200, or in the middle of a stream."""
    error = body.get("error") if isinstance(body, dict) else None
    if error:
        code = error.get("code") if isinstance(error, dict) else None
        status = code if isinstance(code, int) and 400 <= code < 600 else 500
        raise refused(status, {}, body)


def _note(summary: Summary, body: Body) -> None:
    summary.model = text_id(body.get("model")) or summary.model
    usage = body.get("usage")
    if not isinstance(usage, dict):
        return
    used, made, total = (count(usage.get(name)) for name in ("prompt_tokens", "completion_tokens", "total_tokens"))
    if used is not None and made is not None:
        # Gemini leaves what was thought out of completion_tokens; it is billed all the same
        summary.input_tokens, summary.output_tokens = used, max(made, (total or 0) - used)
        details = usage.get("prompt_tokens_details")
        summary.cached_tokens = (count(details.get("cached_tokens")) or 0) if isinstance(details, dict) else 0


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
