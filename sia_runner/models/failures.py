"""How a call can fail: a closed set of kinds, what may be tried again, and what a provider's status means."""

import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import Any, Literal, get_args

Kind = Literal[
    "rate_limited",
    "timeout",
    "unreachable",  # no connection, a reset, or a server error
    "auth",  # the key is refused, or its account has no credit
    "bad_request",
    "malformed",  # an answer that is none
    "too_large",
    "budget",
    "down",  # the circuit breaker is open
    "cancelled",  # whoever asked is gone
]
KINDS: tuple[Kind, ...] = get_args(Kind)

_TRANSIENT: frozenset[Kind] = frozenset({"rate_limited", "timeout", "unreachable", "malformed"})
_OVERLOADED = 529  # Anthropic's own
_STATUS: Mapping[int, Kind] = {
    401: "auth",
    402: "auth",
    403: "auth",
    408: "timeout",
    409: "unreachable",
    425: "unreachable",
    429: "rate_limited",
    504: "timeout",
    _OVERLOADED: "rate_limited",
}
_LONGEST = 2000  # characters kept of a provider's message


class Failed(Exception):
    """A call, or one attempt of it, came to nothing.

    `status` is the provider's, where it answered at all; `sent`: the request may have reached it; `retry_after` in
    seconds.
    """

    def __init__(
        self,
        kind: Kind,
        message: str,
        *,
        status: int | None = None,
        sent: bool = True,
        retry_after: float | None = None,
        code: str | None = None,
        final: bool = False,
    ) -> None:
        super().__init__(message)
        self.kind: Kind = kind
        self.message = message
        self.status = status
        self.sent = sent
        self.retry_after = retry_after
        self.code = code  # the provider's own word, such as context_length_exceeded
        self.final = final
        self.cause: Exception | None = None  # BudgetSpent, where that is why

    @property
    def transient(self) -> bool:
        return self.kind in _TRANSIENT and not self.final


def refused(status: int, headers: Mapping[str, str], body: Any) -> Failed:
    """What an error of a provider means. `body`: its JSON, or its text where that is none."""
    message, code = _said(body)
    kind: Kind = _STATUS.get(status) or ("unreachable" if status >= 500 else "bad_request")
    if code == "insufficient_quota":  # said with 429, but no waiting brings credit
        kind = "auth"
    text = message[:_LONGEST] or "no reason given"
    return Failed(kind, f"{text} (status {status})", status=status, retry_after=retry_after(headers), code=code)


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that the provider asks to wait; None where it says nothing that can be understood."""
    value = headers.get("retry-after-ms")
    try:
        if value is not None:
            return max(0.0, float(value) / 1000)
        value = headers.get("retry-after")
        return None if value is None else max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(str(value)).timestamp() - time.time())
    except ValueError:
        return None


def _said(body: Any) -> tuple[str, str | None]:
    """The message and code of an error in any of the shapes in use."""
    if isinstance(body, list) and body:  # Gemini wraps its errors in a list
        body = body[0]
    error = body.get("error", body) if isinstance(body, dict) else body
    if not isinstance(error, dict):
        return (str(error) if error else ""), None
    code = error.get("code") if isinstance(error.get("code"), str) else error.get("type")
    message = error.get("message") or error.get("detail") or ""
    return str(message), code if isinstance(code, str) else None
