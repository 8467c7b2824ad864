"""The HTTP client for providers: all bytes to and from them pass here, with bounded sizes."""

import ssl
from collections.abc import AsyncIterator, Mapping
from functools import cached_property

import aiohttp

from sia_runner.text import one_line
from sia_runner.wire.failures import CallError, error_of_body
from sia_runner.wire.providers import address_of, ca_hint, proxy_of, through_proxy, tls_context
from sia_runner.wire.requests import MAX_ANSWER_BYTES

_MAX_ERROR_BYTES = 64 << 10
_CONNECT_SECONDS = 10.0  # seconds


class HttpClient:
    """One connection pool, made on first use inside the event loop."""

    def __init__(self) -> None:
        self._sessions: dict[bool, aiohttp.ClientSession] = {}  # of streams, and of whole answers

    @cached_property
    def _tls(self) -> ssl.SSLContext:
        return tls_context()

    async def open(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes, *, stream: bool
    ) -> aiohttp.ClientResponse:
        """Send a request; the caller bounds the time, reads the body and closes the response. Raises CallError.

        The connection of a stream is not used again: llama.cpp closes it after a stream, though it says "keep-alive",
        and whether a request that found it closed was read, and billed, nobody can tell.
        """
        if stream not in self._sessions:
            pool = aiohttp.TCPConnector(limit=0, force_close=stream)  # the endpoint limits concurrency
            timeout = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_SECONDS)
            jar = aiohttp.DummyCookieJar()
            self._sessions[stream] = aiohttp.ClientSession(connector=pool, timeout=timeout, cookie_jar=jar)
        tls = self._tls if url.startswith("https:") else True
        try:
            return await self._sessions[stream].request(
                method, url, headers=headers, data=body, allow_redirects=False, proxy=proxy_of(url), ssl=tls
            )
        except (
            aiohttp.ClientConnectorError,
            aiohttp.ClientHttpProxyError,
            aiohttp.ConnectionTimeoutError,
            aiohttp.InvalidURL,
        ) as error:
            why = _reason(error) + ca_hint(getattr(error, "certificate_error", error))
            reason = f"no connection to {address_of(url)}{through_proxy(url)}: {why}"
            raise CallError("unreachable", reason, sent=False) from None
        except (aiohttp.ClientError, ConnectionError, ssl.SSLError, ValueError) as error:
            raise _broken_connection(error) from None

    async def close(self) -> None:
        """Close the connection pools."""
        for session in self._sessions.values():
            await session.close()


async def body_pieces(response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    """Yield the body as it arrives. Raises CallError (too_large, unreachable)."""
    size = 0
    try:
        async for piece in response.content.iter_any():
            size += len(piece)
            if size > MAX_ANSWER_BYTES:
                raise CallError("too_large", f"the provider's answer has more than {MAX_ANSWER_BYTES >> 20} MiB")
            yield piece
    except (aiohttp.ClientError, ConnectionError, ssl.SSLError) as error:
        raise _broken_connection(error) from None


async def read_error(response: aiohttp.ClientResponse) -> CallError:
    """Read a response with an error status, up to 64 KiB, and return the error it means."""
    body = bytearray()
    async for piece in body_pieces(response):
        body += piece
        if len(body) > _MAX_ERROR_BYTES:
            break
    return error_of_body(response.status, response.headers, bytes(body[:_MAX_ERROR_BYTES]))


def _broken_connection(error: Exception) -> CallError:
    return CallError("unreachable", f"the provider's connection broke: {_reason(error)}")


def _reason(error: Exception) -> str:
    return one_line(str(error)) or type(error).__name__
