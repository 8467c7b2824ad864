"""The checks that every request passes (method, host, token), and the security headers of every answer."""

import hashlib
import hmac
import ipaddress
import socket
from collections.abc import Awaitable, Callable, MutableMapping
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import parse_qs

Scope = MutableMapping[str, Any]
App = Callable[[Scope, Any, Any], Awaitable[None]]
# Pages consist of our own files only: no inline script, nothing of another origin, no markup made from strings.
CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
)
_HEADERS = {
    "content-security-policy": CONTENT_SECURITY_POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}
_HEADER_LINES = [(name.encode(), value.encode()) for name, value in _HEADERS.items()]
_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})


class Guard:
    """The ASGI middleware that checks requests.

    `host`: the address that is listened at. Other host names are refused, so that no foreign page whose name points at
    this machine can read (DNS rebinding). `token`: empty if none is needed.
    """

    def __init__(self, app: App, host: str, token: str) -> None:
        self._app, self._host, self._token = app, host.lower(), token
        self.cookie = f"sia_dashboard_{hashlib.sha256(token.encode()).hexdigest()[:12]}"  # all ports share cookies

    async def __call__(self, scope: Scope, receive: Any, send: Any) -> None:
        """Check the request, then pass it to the application."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            return
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        if scope["method"] not in ("GET", "HEAD"):
            await _send_answer(send, 405, "only GET and HEAD: the dashboard changes nothing")
        elif not self._is_own_host(headers.get("host", "")):
            await _send_answer(send, 421, "this name is not the dashboard's; use the address that it printed")
        elif not self._token:
            await self._app(scope, receive, _with_headers(send))
        elif self._is_token(parse_qs(scope["query_string"].decode("latin-1")).get("token", [""])[0]):
            # so that the token is not left in the address bar and the history
            cookie = f"{self.cookie}={self._token}; Path=/; HttpOnly; SameSite=Strict"
            await _send_answer(send, 303, "", [("location", "/"), ("set-cookie", cookie)])
        elif self._is_token(_bearer_token(headers)) or self._is_token(_cookie_value(headers, self.cookie)):
            await self._app(scope, receive, _with_headers(send))
        else:
            await _send_answer(send, 401, "the token is missing: open the address that was printed at the start")

    def _is_own_host(self, host: str) -> bool:
        name = _host_name(host)
        if name in _LOOPBACK or name == self._host:
            return True
        if self._host in _LOOPBACK:
            return False
        return name in (socket.gethostname().lower(), socket.getfqdn().lower()) or _is_address(name)

    def _is_token(self, token: str) -> bool:
        return hmac.compare_digest(token.encode(), self._token.encode())


def _host_name(host: str) -> str:
    """Return the host without the port; tunnels use any port."""
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    return host.partition(":")[0].lower()


def _is_address(name: str) -> bool:
    """Report whether the host is an IP address: a rebinding page has a name, never a number."""
    try:
        return bool(ipaddress.ip_address(name))
    except ValueError:
        return False


def _bearer_token(headers: dict[str, str]) -> str:
    kind, _, token = headers.get("authorization", "").partition(" ")
    return token if kind.lower() == "bearer" else ""


def _cookie_value(headers: dict[str, str], name: str) -> str:
    try:
        morsel = SimpleCookie(headers.get("cookie", "")).get(name)
    except CookieError:
        return ""
    return morsel.value if morsel else ""


def _with_headers(send: Any) -> Any:
    async def sending(message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message.get("headers", []), *_HEADER_LINES]
        await send(message)

    return sending


async def _send_answer(send: Any, status: int, text: str, headers: list[tuple[str, str]] | None = None) -> None:
    lines = [(b"content-type", b"text/plain; charset=utf-8"), *_HEADER_LINES]
    lines += [(name.encode(), value.encode()) for name, value in headers or []]
    await send({"type": "http.response.start", "status": status, "headers": lines})
    await send({"type": "http.response.body", "body": text.encode()})
