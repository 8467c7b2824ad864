"""A provider's key, and a check that its endpoint answers, accepts the key and serves the model.

Keys come from the environment or a file and stay in memory: never logged, pickled, journaled or written. The endpoint
is asked once, for its list of models, with the standard library only.
"""

import difflib
import http.client
import ipaddress
import json
import os
import re
import socket
import ssl
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as NotInTime
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from sia_runner.config.components import HostedProvider
from sia_runner.wire.grants import ModelsError

_MAX_KEY_CHARS = 8192  # characters; real keys have about a hundred
_DECORATED_KEY = re.compile(r"""(export\s+)?[A-Za-z_]\w*\s*=\s*[^\s=]|['"]|bearer\s""", re.I)  # a line of a .env file
ANTHROPIC_VERSION = "2023-06-01"
PROBE_SECONDS = 1.0  # timeout of the endpoint's answer, including name lookup and TLS
_MAX_LIST_BYTES = 8 << 20  # bytes of a model list
_LIST_TOO_LATE = "answers, but its list of models does not come in time: the model's name is not checked"


def key_of(hosted: HostedProvider) -> str | None:
    """Return the provider's key; None where it needs none. Raises ModelsError, which names the setting."""
    if hosted.key is None and hosted.key_file is None:
        return None
    key = os.environ.get(hosted.key, "").strip() if hosted.key else ""
    from_environment = bool(key)
    if not key and hosted.key_file:
        path = Path(hosted.key_file).expanduser()
        try:
            with path.open(encoding="utf-8", errors="replace") as stream:
                key = stream.readline(_MAX_KEY_CHARS + 2).strip()
        except OSError as error:
            why = error.strerror or type(error).__name__
            raise ModelsError(f"provider {hosted.name}: provider.key_file={path} cannot be read ({why})") from None
    if not key:
        empty = f"the first line of provider.key_file={hosted.key_file} is empty"
        job = os.environ.get("SLURM_JOB_ID")  # of which the driver may know the key all the same
        where = f" of job {job} on {os.uname().nodename}, where the cluster did not pass it on," if job else ""
        missing = f"set {hosted.key} in the environment{where} or provider.key_file"
        raise ModelsError(f"provider {hosted.name}: no key; {missing if hosted.key else empty}")
    where = f"the value of {hosted.key}" if from_environment else f"the first line of {hosted.key_file}"
    if _DECORATED_KEY.match(key):
        raise ModelsError(f"provider {hosted.name}: {where} must be the key alone, without NAME=, quotes or Bearer")
    if len(key) > _MAX_KEY_CHARS or not key.isascii() or not key.isprintable() or " " in key:
        raise ModelsError(f"provider {hosted.name}: {where} is not a valid key")
    return key


def redact(text: str, keys: Iterable[str | None]) -> str:
    """Return `text` without any of the keys: providers repeat a refused key in their message."""
    for key in sorted(filter(None, keys), key=len, reverse=True):
        text = text.replace(key, "[key]")
    return text


class EndpointProbe:
    """A request for the list of models, in a daemon thread: a name lookup cannot be given a deadline."""

    def __init__(self, hosted: HostedProvider) -> None:
        self._deadline = time.monotonic() + PROBE_SECONDS
        self._hosted, self._answer, self._reached = hosted, Future[str](), threading.Event()
        threading.Thread(target=self._ask, daemon=True, name="preflight").start()

    def answer(self) -> str:
        """Return the result as a phrase. Raises ModelsError."""
        try:
            return self._answer.result(max(0.0, self._deadline - time.monotonic()))
        except NotInTime:
            if self._reached.is_set():  # a slow connection is no reason to refuse a run
                return _LIST_TOO_LATE
            raise ModelsError(_unreachable_message(self._hosted, f"no answer within {PROBE_SECONDS:g} s")) from None

    def _ask(self) -> None:
        try:
            self._answer.set_result(self._fetch())
        except Exception as error:  # noqa: BLE001 - handed over to who waits
            self._answer.set_exception(error)

    def _fetch(self) -> str:
        hosted = self._hosted
        if hosted.api == "litellm" or not hosted.base_url:
            return "litellm chooses the address: key and model are not checked before the first call"
        headers = {"User-Agent": "sia-runner", "Accept": "application/json"} | auth_headers(hosted, key_of(hosted))
        url = f"{hosted.base_url.rstrip('/')}/models"
        if hosted.api == "anthropic":
            headers, url = {"anthropic-version": ANTHROPIC_VERSION} | headers, f"{url}?limit=1000"
        try:
            request = urllib.request.Request(url, headers=headers)  # noqa: S310 - the schema allows http(s) only
            with build_opener(url, _Https(self._reached.set)).open(request, timeout=PROBE_SECONDS) as response:
                self._reached.set()
                return _check_listed(hosted, response.read(_MAX_LIST_BYTES + 1))
        except urllib.error.HTTPError as error:
            return _explain_status(hosted, error.code)
        except (OSError, http.client.HTTPException, ValueError) as error:
            if self._reached.is_set():
                return _LIST_TOO_LATE
            fault = _connection_fault(getattr(error, "reason", error))
            raise ModelsError(_unreachable_message(hosted, fault)) from None


def _explain_status(hosted: HostedProvider, status: int) -> str:
    asked_proxy = str(hosted.base_url).startswith("http:") and proxy_of(hosted.base_url or "")
    if asked_proxy and status in (403, 407, 500, 502, 503, 504):  # its own answer, most likely
        raise ModelsError(_unreachable_message(hosted, f"HTTP {status}"))
    if status in (401, 403):
        named = hosted.key or hosted.key_file
        why = f"the key in {named} is refused" if named else "it wants a key: name its variable in provider.key"
        raise ModelsError(f"provider {hosted.name}: key refused (HTTP {status} at {provider_address(hosted)}); {why}")
    return f"answers, but shows no list of models (HTTP {status}): the model's name is not checked"


def _check_listed(hosted: HostedProvider, body: bytes) -> str:
    rows = _model_rows(body)
    names = [row["id"] for row in rows]
    if not names:
        return "answers, but its list of models cannot be read: the model's name is not checked"
    if not _is_listed(hosted.model, names):
        close = difflib.get_close_matches(hosted.model, names, n=1, cutoff=0.4)
        shown = [*names[:5], *([f"and {len(names) - 5} more"] if len(names) > 5 else [])]
        hint = f"did you mean {close[0]!r}?" if close else f"it serves {', '.join(shown)}"
        raise ModelsError(f"provider {hosted.name}: no model {hosted.model!r} at {provider_address(hosted)}; {hint}")
    context = next((row.get("max_model_len") for row in rows if row["id"] == hosted.model), None)  # vLLM's name
    if isinstance(context, int) and hosted.max_tokens >= context:
        raise ModelsError(
            f"provider {hosted.name}: provider.max_tokens={hosted.max_tokens} leaves no room for a prompt, as the "
            f"server's context has {context} tokens (max_model_len); give provider.max_tokens={max(1, context // 4)}, "
            "or start the server with a longer context"
        )
    return f"answers, and serves {hosted.model}"


def _model_rows(body: bytes) -> list[dict[str, Any]]:
    """Return the rows of a complete model list, each with an id. OpenAI's and Anthropic's shape, or a bare list."""
    try:
        listing: Any = json.loads(body) if len(body) <= _MAX_LIST_BYTES else None
    except (ValueError, RecursionError):
        return []
    if isinstance(listing, dict):
        listing = None if listing.get("has_more") or listing.get("nextPageToken") else listing.get("data")
    rows: list[dict[str, Any]] = [row for row in listing if isinstance(row, dict)] if isinstance(listing, list) else []
    return [row for row in rows if isinstance(name := row.get("id"), str) and len(name) <= 200 and name.isprintable()]


def _is_listed(model: str, names: Sequence[str]) -> bool:
    """Return whether the model is listed: an alias of a dated one too, without a tag, routing suffix or prefix."""
    served = {name.removeprefix("models/") for name in names}  # Google's prefix; llama3:latest, openai/gpt-oss:nitro
    requested = model.removeprefix("models/")
    if {requested, f"{requested}:latest", requested.partition(":")[0] if "/" in requested else requested} & served:
        return True
    stem = requested.removesuffix("-latest")
    return any(name.startswith(f"{stem}-") and name[len(stem) + 1 :].replace("-", "").isdigit() for name in served)


def auth_headers(hosted: HostedProvider, key: str | None) -> dict[str, str]:
    """Return the headers with the key, and those of the configuration, which win."""
    if not key:
        return dict(hosted.headers)
    return ({"x-api-key": key} if hosted.api == "anthropic" else {"authorization": f"Bearer {key}"}) | hosted.headers


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """Turns a redirect into an error: a key is sent to the configured address only."""

    def redirect_request(self, req: object, fp: object, code: int, msg: str, headers: object, newurl: str) -> None:
        return None


class _Https(urllib.request.HTTPSHandler):
    """Reports when a connection is established: then the host exists, however slowly it answers."""

    def __init__(self, reached: Callable[[], None]) -> None:
        super().__init__()
        self._reached = reached

    def https_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        reached = self._reached

        class Connection(http.client.HTTPSConnection):
            def connect(self) -> None:
                super().connect()
                reached()

        return self.do_open(Connection, req, context=tls_context())


def build_opener(url: str, https: urllib.request.HTTPSHandler | None = None) -> urllib.request.OpenerDirector:
    """Return an opener for `url` that follows no redirect, with the proxy and the CAs of the environment."""
    proxy, scheme = proxy_of(url), urlsplit(url).scheme
    handlers: list[urllib.request.BaseHandler] = [urllib.request.ProxyHandler({scheme: proxy} if proxy else {})]
    if https or scheme == "https":
        handlers.append(https or urllib.request.HTTPSHandler(context=tls_context()))
    return urllib.request.build_opener(_NoRedirects, *handlers)


def tls_context() -> ssl.SSLContext:
    """Return a context that trusts this machine's CAs and those of REQUESTS_CA_BUNDLE. Raises ModelsError."""
    context = ssl.create_default_context()  # it reads SSL_CERT_FILE and SSL_CERT_DIR
    name = next((name for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE") if os.environ.get(name)), None)
    path = os.environ[name] if name else ""
    try:
        if path:
            folder = Path(path).is_dir()
            context.load_verify_locations(cafile=None if folder else path, capath=path if folder else None)
    except OSError as error:  # ssl.SSLError too
        raise ModelsError(f"{name}={path} cannot be read as certificates ({error.strerror or error})") from None
    return context


def ca_hint(error: BaseException) -> str:
    """Return the remedy for a certificate that is not trusted; empty for another error."""
    if not isinstance(error, ssl.SSLCertVerificationError):
        return ""
    return "; name the file of your company's CA in REQUESTS_CA_BUNDLE or SSL_CERT_FILE"


def proxy_of(url: str) -> str | None:
    """Return the proxy for `url` from the environment; None for loopback and what NO_PROXY names, CIDR blocks too."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        return None
    proxies = urllib.request.getproxies_environment()
    proxy = proxies.get(parts.scheme) or proxies.get("all")
    excluded = [name.strip().lower().lstrip("*.") for name in proxies.get("no", "").split(",")]
    direct = host == "localhost" or proxies.get("no", "").strip() == "*"
    if not proxy or direct or any(n in (host, f"{host}:{port}") or host.endswith(f".{n}") for n in excluded if n):
        return None
    with suppress(ValueError):
        address = ipaddress.ip_address(host)
        if address.is_loopback or any(_contains(block, address) for block in excluded):
            return None
    return proxy if "://" in proxy else f"http://{proxy}"


def _contains(block: str, address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    with suppress(ValueError):
        return address in ipaddress.ip_network(block, strict=False)
    return False


def through_proxy(url: str) -> str:
    """Return a phrase that names the proxy for `url`, without its password; empty where there is none."""
    with suppress(ValueError):
        if proxy := proxy_of(url):
            return f" through the proxy {address_of(proxy)} (HTTP_PROXY, HTTPS_PROXY, NO_PROXY)"
    return ""


def provider_address(hosted: HostedProvider) -> str:
    """Return the address of a provider, for messages."""
    try:
        return address_of(hosted.base_url or "")
    except ValueError:
        return "provider.base_url, which is not a valid address"


def is_private(url: str) -> bool:
    """Tell whether an address is of this machine or of a private network: a server there sends no bill."""
    host = urlsplit(url).hostname or ""
    with suppress(ValueError):
        return ipaddress.ip_address(host).is_private
    return "." not in host


def address_of(url: str) -> str:
    """Return scheme, host and port, without a user name or password. Raises ValueError."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"


def _unreachable_message(hosted: HostedProvider, why: str) -> str:
    where = provider_address(hosted) + through_proxy(hosted.base_url or "")
    return redact(f"provider {hosted.name} does not answer at {where} ({why})", [key_of(hosted)])


def _connection_fault(reason: object) -> str:
    if isinstance(reason, TimeoutError):
        return f"no answer within {PROBE_SECONDS:g} s"
    if isinstance(reason, socket.gaierror):
        return "no such host name"
    if isinstance(reason, ssl.SSLError):
        return f"TLS: {reason.reason or reason}{ca_hint(reason)}"
    text = getattr(reason, "strerror", None) or str(reason) or type(reason).__name__
    return " ".join(str(text).lower().split())[:200]
