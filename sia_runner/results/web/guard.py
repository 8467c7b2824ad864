"""The checks that every request passes (method, host, token), and the security headers of every answer."""

import hashlib
import hmac
import ipaddress
import socket
from collections.abc import Awaitable, Callable, Collection, MutableMapping
from typing import Any

from fastapi import Request
from fastapi.responses import PlainTextResponse, Response
from starlette.datastructures import MutableHeaders

from sia_runner.text import one_line

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
_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})


class Guard:
    """The ASGI middleware that checks requests; `root_path` is taken off those that have it.

    All hosts but `host` and `allowed_hosts` are refused: a foreign page's name may point here (DNS rebinding).
    """

    def __init__(self, app: App, host: str, token: str, allowed_hosts: Collection[str], root_path: str) -> None:
        self._app, self._host, self._token, self._root_path = app, host.lower(), token, root_path
        self._allowed_hosts = frozenset(name.lower() for name in allowed_hosts)
        self.cookie = f"sia_dashboard_{hashlib.sha256(token.encode()).hexdigest()[:12]}"  # all ports share cookies

    async def __call__(self, scope: Scope, receive: Any, send: Any) -> None:
        """Check the request, then pass it to the application."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif scope["type"] == "http":
            if scope["path"].startswith(f"{self._root_path}/"):
                scope["path"] = scope["path"].removeprefix(self._root_path)
            answer = self._refusal(Request(scope)) or self._app
            await answer(scope, receive, _with_headers(send))

    def _refusal(self, request: Request) -> Response | None:
        if request.method not in ("GET", "HEAD"):
            return PlainTextResponse("only GET and HEAD: the dashboard changes nothing", 405)
        host = request.headers.get("host", "").lower()
        name, *_ = host[1:].partition("]") if host.startswith("[") else host.partition(":")  # a tunnel's port is any
        if not self._is_own_host(name):
            remedy = f"use the address that was printed, or start it with allow_host={one_line(name, 100)}"
            return PlainTextResponse(f"the dashboard does not answer to this name; {remedy}", 421)
        if not self._token:
            return None
        if request.url.path == "/" and self._is_token(request.query_params.get("token", "")):
            # So that the token is not left in the address bar and the history. Without a Path the cookie goes to the
            # folder of this address only, which a proxy may share with other people's servers.
            cookie = f"{self.cookie}={self._token}; HttpOnly; SameSite=Strict"
            return PlainTextResponse("", 303, {"location": "./", "set-cookie": cookie})
        kind, _, token = request.headers.get("authorization", "").partition(" ")
        if (kind.lower() == "bearer" and self._is_token(token)) or self._is_token(request.cookies.get(self.cookie, "")):
            return None
        return PlainTextResponse("the token is missing: open the address that was printed at the start", 401)

    def _is_own_host(self, name: str) -> bool:
        if name in _LOOPBACK or name == self._host or name in self._allowed_hosts:
            return True
        if self._host in _LOOPBACK:
            return False
        return name in (socket.gethostname().lower(), socket.getfqdn().lower()) or _is_address(name)

    def _is_token(self, token: str) -> bool:
        return hmac.compare_digest(token.encode(), self._token.encode())


def _is_address(name: str) -> bool:
    """Report whether the host is an IP address: a rebinding page has a name, never a number."""
    try:
        return bool(ipaddress.ip_address(name))
    except ValueError:
        return False


def _with_headers(send: Any) -> Any:
    async def sending(message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            MutableHeaders(scope=message).update(_HEADERS)
        await send(message)

    return sending
