"""Does an endpoint answer, take the key, serve the model? Asked once, for its list of models; standard library only."""

import difflib
import http.client
import json
import socket
import ssl
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as NotInTime
from functools import partial
from typing import Any
from urllib.parse import urlsplit

from sia_runner.models.keys import key_of, redact
from sia_runner.models.protocol import ModelsError
from sia_runner.schema.provider import Hosted

SECONDS = 1.0  # for the endpoint's answer, name lookup and TLS included
_LONGEST = 8 << 20  # bytes of a model list
_NAME = 200  # characters of a model's name, which may be shown in a terminal
_LATE = "answers, but its list of models does not come in time: the model's name is not checked"


class Question:
    """GET {base_url}/models, asked in a thread that nobody waits for: a name lookup knows no deadline."""

    def __init__(self, hosted: Hosted) -> None:
        self._hosted, self._answer, self._answering = hosted, Future[str](), False
        threading.Thread(target=self._ask, daemon=True, name="preflight").start()

    def answer(self, deadline: float) -> str:
        try:
            return self._answer.result(max(0.0, deadline - time.monotonic()))
        except NotInTime:
            if self._answering:  # a slow line is no reason to refuse a run
                return _LATE
            raise ModelsError(_silent(self._hosted, f"no answer within {SECONDS:g} s")) from None

    def _ask(self) -> None:
        try:
            self._answer.set_result(self._found())
        except Exception as error:  # noqa: BLE001 - handed over to who waits
            self._answer.set_exception(error)

    def _reached(self) -> None:
        self._answering = True

    def _found(self) -> str:
        hosted = self._hosted
        if hosted.api == "litellm" or not hosted.base_url:
            return "its address is litellm's business: key and model are not checked before the first call"
        try:
            opener = urllib.request.build_opener(NoRedirect, _Https(self._reached))
            with opener.open(_request(hosted), timeout=SECONDS) as response:
                self._reached()
                return _listed(hosted, response.read(_LONGEST + 1))
        except urllib.error.HTTPError as error:
            return _refused(hosted, error.code)
        except (OSError, http.client.HTTPException, ValueError) as error:
            if self._answering:
                return _LATE
            raise ModelsError(_silent(hosted, _why(getattr(error, "reason", error)))) from None


def _refused(hosted: Hosted, status: int) -> str:
    if status in (401, 403):
        named = hosted.key or hosted.key_file
        why = f"the key in {named} is refused" if named else "it wants a key: name its variable in provider.key"
        raise ModelsError(f"provider {hosted.name}: key refused (HTTP {status} at {address(hosted)}); {why}")
    return f"answers, but shows no list of models (HTTP {status}): the model's name is not checked"


def _listed(hosted: Hosted, body: bytes) -> str:
    names, whole = _names(body)
    if not names or not whole:
        return "answers, but its list of models cannot be read: the model's name is not checked"
    if not _among(hosted.model, names):
        where = address(hosted)
        raise ModelsError(f"provider {hosted.name}: no model {hosted.model!r} at {where}{_nearest(hosted, names)}")
    return f"answers, and serves {hosted.model}"


def _names(body: bytes) -> tuple[list[str], bool]:
    """The ids of a model list, and whether that is all of them. OpenAI's and Anthropic's shape, or a bare list."""
    if len(body) > _LONGEST:
        return [], False
    try:
        found: Any = json.loads(body)
    except (ValueError, RecursionError):
        return [], False
    paged = isinstance(found, dict) and bool(found.get("has_more") or found.get("nextPageToken"))
    rows = found.get("data") if isinstance(found, dict) else found
    rows = rows if isinstance(rows, list) else []
    ids = [row.get("id") for row in rows if isinstance(row, dict)]
    return [name for name in ids if isinstance(name, str) and len(name) <= _NAME and name.isprintable()], not paged


def _among(model: str, names: Sequence[str]) -> bool:
    """Also by another name of the same model: an alias of a dated one, a tag (`llama3` is `llama3:latest`), a routing
    suffix (`openai/gpt-oss-120b:nitro`), Google's `models/` in front."""
    known = {name.removeprefix("models/") for name in names}
    wanted = model.removeprefix("models/")
    if {wanted, f"{wanted}:latest", wanted.partition(":")[0] if "/" in wanted else wanted} & known:
        return True
    stem = wanted.removesuffix("-latest")
    return any(name.startswith(f"{stem}-") and name[len(stem) + 1 :].replace("-", "").isdigit() for name in known)


def _nearest(hosted: Hosted, names: Sequence[str]) -> str:
    close = difflib.get_close_matches(hosted.model, names, n=1, cutoff=0.4)
    if close:
        return f"; did you mean {close[0]!r}?"
    return f"; it serves {', '.join(_shown(names))}"


def _shown(names: Sequence[str]) -> Iterator[str]:
    yield from names[:5]
    if len(names) > 5:
        yield f"and {len(names) - 5} more"


def _request(hosted: Hosted) -> urllib.request.Request:
    key = key_of(hosted)
    headers = {"User-Agent": "sia-runner", "Accept": "application/json", **hosted.headers}
    url = f"{str(hosted.base_url).rstrip('/')}/models"
    if hosted.api == "anthropic":
        headers |= {"anthropic-version": "2023-06-01"} | ({"x-api-key": key} if key else {})
        url += "?limit=1000"
    elif key:
        headers["Authorization"] = f"Bearer {key}"
    return urllib.request.Request(url, headers=headers)  # noqa: S310 - the schema allows http and https only


class NoRedirect(urllib.request.HTTPRedirectHandler):
    """A key is sent where the configuration says, and nowhere else."""

    def redirect_request(self, req: object, fp: object, code: int, msg: str, headers: object, newurl: str) -> None:
        return None


class _Https(urllib.request.HTTPSHandler):
    """Tells when a connection stands: who has shown the right certificate is there, however slow its answer."""

    def __init__(self, reached: Callable[[], None]) -> None:
        super().__init__()
        self._reached = reached

    def https_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(partial(_Connection, self._reached), req, context=ssl.create_default_context())


class _Connection(http.client.HTTPSConnection):
    def __init__(self, reached: Callable[[], None], host: str, **given: Any) -> None:
        super().__init__(host, **given)
        self._reached = reached

    def connect(self) -> None:
        super().connect()
        self._reached()


def address(hosted: Hosted) -> str:
    """Scheme, host and port: no user name or password that may be in the address."""
    try:
        parts = urlsplit(hosted.base_url or "")
    except ValueError:
        return "provider.base_url, which is no address"
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"


def _silent(hosted: Hosted, why: str) -> str:
    return redact(f"provider {hosted.name} does not answer at {address(hosted)} ({why})", [key_of(hosted)])


def _why(reason: object) -> str:
    if isinstance(reason, TimeoutError):
        return f"no answer within {SECONDS:g} s"
    if isinstance(reason, socket.gaierror):
        return "no such host name"
    if isinstance(reason, ssl.SSLError):
        return f"TLS: {reason.reason or reason}"
    text = getattr(reason, "strerror", None) or str(reason) or type(reason).__name__
    return " ".join(str(text).lower().split())[:200]
