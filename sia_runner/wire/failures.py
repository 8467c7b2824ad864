"""The errors of model calls: a closed set of kinds, whose failure each is, and the meaning of statuses and ends."""

import json
import re
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import KW_ONLY, dataclass
from email.utils import parsedate_to_datetime
from typing import Any, Literal

from sia_runner.records import OutcomeKind

FailureKind = Literal[
    "rate_limited",
    "timeout",
    "unreachable",  # no connection, a reset, or a server error
    "auth",  # the key is refused, or its account has no credit
    "bad_request",
    "malformed",  # not a valid answer
    "too_large",
    "budget",
    "down",  # the circuit breaker is open
    "cancelled",  # the client is gone
]

TRANSIENT_KINDS: frozenset[FailureKind] = frozenset({"rate_limited", "timeout", "unreachable", "malformed"})
# What becomes of a question whose request failed so; any other kind is a RATE_LIMITED.
_OUTCOMES: Mapping[FailureKind, OutcomeKind] = {
    "bad_request": OutcomeKind.REFUSED,
    "budget": OutcomeKind.BUDGET,
    "cancelled": OutcomeKind.TIMEOUT,  # by the client: its patience may be short, or the model slow
}
# Finish reasons in lower case. Any other means that the answer was broken off, which is the provider's failure.
CUT_REASONS = frozenset({"length", "max_tokens", "model_length", "model_context_window_exceeded"})
_END_REASONS = CUT_REASONS | {
    *("stop", "tool_calls", "function_call", "end_turn", "stop_sequence", "tool_use", "pause_turn", "complete"),
    *("eos", "eos_token", "end_of_text", "stop_token", "tool_call"),
    # withheld for what it says: the model's answer, and the same for every candidate
    *("content_filter", "refusal", "safety", "sensitive", "recitation"),
}
_CONTENT_CODES = ("context_length_exceeded", "string_above_max_length", "content_filter", "content_policy_violation")
_TOO_LONG = re.compile(r"context.?(length|window|size)|too (long|large|many tokens)|content.?(filter|policy)", re.I)
_OVERLOADED = 529  # Anthropic's own
_STATUS: Mapping[int, FailureKind] = {
    **dict.fromkeys((401, 402, 403), "auth"),
    **dict.fromkeys((408, 504), "timeout"),
    **dict.fromkeys((409, 425), "unreachable"),
    **dict.fromkeys((429, _OVERLOADED), "rate_limited"),
}
_MAX_MESSAGE_CHARS = 2000  # characters kept of a provider's message
_DAILY = re.compile(r"per[ _-]?day|daily", re.I)
_DELAY = re.compile(r"(?:retry|try again)\s+(?:in|after)\s+((?:\d+(?:\.\d+)?\s*(?:ms|h|m|s)[a-z]*\s*)+)", re.I)
_SECONDS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}


@dataclass(eq=False)
class CallError(Exception):
    """A call, or one attempt of it, failed."""

    kind: FailureKind
    message: str
    _: KW_ONLY
    status: int | None = None  # the provider's, where it answered at all
    sent: bool = True  # the request may have reached the provider
    retry_after: float | None = None  # seconds
    code: str | None = None  # the provider's, such as context_length_exceeded
    final: bool = False  # another attempt would not help
    cause: Exception | None = None  # BudgetSpent, if that is the cause

    def __str__(self) -> str:
        return self.message

    @property
    def transient(self) -> bool:
        """Tells whether another attempt may succeed."""
        return self.kind in TRANSIENT_KINDS and not self.final

    @property
    def outcome(self) -> OutcomeKind | None:
        """The kind of a question whose request failed so; None where the harness is to blame."""
        refused_here = self.kind == "bad_request" and not self.sent
        return None if refused_here else _OUTCOMES.get(self.kind, OutcomeKind.RATE_LIMITED)

    @property
    def concerns_content(self) -> bool:
        """Tells whether the provider refused this request for its length or content, and might answer another."""
        return self.kind == "bad_request" and (self.code in _CONTENT_CODES or bool(_TOO_LONG.search(self.message)))


def check_finish_reason(reason: str | None, *, complete: bool) -> None:
    """Raise CallError where an answer was broken off. `complete`: it may do without a reason."""
    if reason is None and not complete:
        raise CallError("malformed", "the provider's answer was cut before its end: it gives no finish reason")
    if reason is not None and reason.lower() not in _END_REASONS:
        raise CallError("unreachable", f"the provider broke off its answer with the finish reason {reason!r}")


def error_of_status(status: int, headers: Mapping[str, str], body: Any) -> CallError:
    """Return the error that a provider's answer means. `body` is its JSON, or its text where that is not JSON."""
    if isinstance(body, list) and body:  # Gemini wraps its errors in a list
        body = body[0]
    error = body.get("error", body) if isinstance(body, dict) else body
    fields = error if isinstance(error, dict) else {"message": error}
    code = next((value for value in (fields.get("code"), fields.get("type")) if isinstance(value, str)), None)
    message = str(fields.get("message") or fields.get("detail") or "")[:_MAX_MESSAGE_CHARS] or "no reason given"
    kind: FailureKind = _STATUS.get(status) or ("unreachable" if status >= 500 else "bad_request")
    if code == "insufficient_quota":  # sent with status 429, but waiting does not help
        kind = "auth"
    seconds, final = retry_after(headers), False
    if kind == "rate_limited":
        seconds = _delay_in(fields) if seconds is None else seconds
        # a daily quota of Gemini comes with a delay that does not help; others count over the last 24 hours
        final = "PerDay" in str(fields.get("details")) or (seconds is None and bool(_DAILY.search(message)))
    text = f"{message} (status {status})"
    return CallError(kind, text, status=status, retry_after=seconds, code=code, final=final)


def _delay_in(fields: Mapping[str, Any]) -> float | None:
    """Return the seconds to wait that an error's details (Google) or its message name; None where they name none."""
    details = fields.get("details")
    parts = details if isinstance(details, list) else []
    named = [str(part.get("retryDelay")) for part in parts if isinstance(part, dict)]
    stated = _DELAY.search(str(fields.get("message")))
    for text in [*named, *([stated[1]] if stated else [])]:
        if pieces := re.findall(r"(\d+(?:\.\d+)?)\s*(ms|h|m|s)", text):
            return sum(float(number) * _SECONDS[unit.lower()] for number, unit in pieces)
    return None


def error_of_body(status: int, headers: Mapping[str, str], body: bytes) -> CallError:
    """Return the error that a status, headers of any case and the bytes of a body mean."""
    text = body.decode(errors="replace")
    try:
        parsed: Any = json.loads(text)
    except (ValueError, RecursionError):
        parsed = text
    return error_of_status(status, {name.lower(): value for name, value in headers.items()}, parsed)


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Return the seconds that the provider asks to wait; None where its headers give none."""
    value, per_second = headers.get("retry-after", ""), 1
    if "retry-after-ms" in headers:
        value, per_second = headers["retry-after-ms"], 1000
    with suppress(ValueError):
        return max(0.0, float(value) / per_second)
    with suppress(ValueError):
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    return None
