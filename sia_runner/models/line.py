"""The way to a provider: every byte that is sent to one, or comes back, goes through here. Sizes are bounded."""

import json
import ssl
import urllib.request
from collections.abc import AsyncIterator, Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from sia_runner.models.failures import Failed, refused

if TYPE_CHECKING:
    from aiohttp import ClientResponse, ClientSession

BIGGEST_ANSWER = 16 << 20  # bytes
_BIGGEST_ERROR = 64 << 10
_CONNECT = 10.0  # seconds


class Line:
    """One connection pool, made on first use inside the event loop."""

    def __init__(self) -> None:
        self._session: ClientSession | None = None

    async def open(self, method: str, url: str, headers: Mapping[str, str], body: bytes) -> "ClientResponse":
        """The response, its body unread; the caller closes it. Raises Failed. Bounds of time are the caller's."""
        import aiohttp

        try:
            return await self._pool().request(
                method, url, headers=headers, data=body, allow_redirects=False, proxy=_proxy(url)
            )
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError, aiohttp.InvalidURL) as error:
            raise Failed("unreachable", f"no connection to {_address(url)}: {_why(error)}", sent=False) from None
        except (aiohttp.ClientError, ConnectionError, ssl.SSLError, ValueError) as error:
            raise _broke(error) from None

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    def _pool(self) -> "ClientSession":
        import aiohttp

        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0),  # how many calls are under way is the endpoint's business
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT),
                cookie_jar=aiohttp.DummyCookieJar(),
            )
        return self._session


async def pieces(response: "ClientResponse") -> AsyncIterator[bytes]:
    """The body as it comes. Raises Failed (too_large, unreachable)."""
    import aiohttp

    size = 0
    try:
        async for piece in response.content.iter_any():
            size += len(piece)
            if size > BIGGEST_ANSWER:
                raise Failed("too_large", f"the provider's answer has more than {BIGGEST_ANSWER >> 20} MiB")
            yield piece
    except (aiohttp.ClientError, ConnectionError, ssl.SSLError) as error:
        raise _broke(error) from None


async def error_of(response: "ClientResponse") -> Failed:
    """What a response with an error status says; as much of it as is worth reading."""
    body = bytearray()
    async for piece in pieces(response):
        body += piece
        if len(body) > _BIGGEST_ERROR:
            break
    return error_in(response.status, response.headers, bytes(body[:_BIGGEST_ERROR]))


def error_in(status: int, headers: Mapping[str, str], body: bytes) -> Failed:
    text = body.decode(errors="replace")
    try:
        said: Any = json.loads(text)
    except (ValueError, RecursionError):
        said = text
    return refused(status, {name.lower(): value for name, value in headers.items()}, said)


def _proxy(url: str) -> str | None:
    """As the environment of the runner says; aiohttp's own way would also look for credentials in ~/.netrc."""
    parts = urlsplit(url)
    proxy = urllib.request.getproxies_environment().get(parts.scheme)
    if not proxy or urllib.request.proxy_bypass(parts.hostname or ""):
        return None
    return proxy


def _broke(error: Exception) -> Failed:
    return Failed("unreachable", f"the provider's connection broke: {_why(error)}")


def _address(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"


def _why(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
