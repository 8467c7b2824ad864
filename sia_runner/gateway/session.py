"""A harness's session at the gateway: spending, failed calls, calls under way, cached answers, trajectories.jsonl."""

import asyncio
import contextlib
import hashlib
import json
import os
import tempfile
import threading
from collections import Counter, defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

from sia_runner.config.components import HostedProvider
from sia_runner.records import CallFailures, GatewayAddress, OutcomeKind, SampledCall, Usage
from sia_runner.wire.failures import CallError
from sia_runner.wire.grants import BudgetSpent, Grant, ProviderDown
from sia_runner.wire.requests import Body, ModelRequest, dumps

_MAX_PART_BYTES = 256 << 10  # bytes kept of a request, and of a response
_TAGS = ("user", "metadata")  # fields that identify the caller and do not change the answer


class AnswerCache:
    """One session's view of the cache folder; a request repeated in it is another sample, with another answer."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._repeats: Counter[str] = Counter()

    def path_of(self, request: ModelRequest, hosted: HostedProvider) -> Path:
        """Return the path of the answer to this request, counting repetitions of the same request."""
        body = {name: value for name, value in request.body.items() if name not in _TAGS}
        target = [hosted.base_url, hosted.litellm, hosted.api, request.api, dict(request.headers), request.wants_usage]
        key = hashlib.sha256(json.dumps([target, body], sort_keys=True).encode()).hexdigest()
        self._repeats[key] += 1
        return self._folder / key[:2] / f"{key}-{self._repeats[key] - 1}"

    def get(self, path: Path) -> bytes | None:
        """Return the stored answer, or None."""
        with contextlib.suppress(OSError):
            return path.read_bytes()

    def put(self, path: Path, answer: bytes) -> None:
        """Store an answer atomically. Errors are ignored: an unwritable cache must not fail a paid call."""
        with contextlib.suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            handle, temporary = tempfile.mkstemp(dir=path.parent)
            with os.fdopen(handle, "wb") as stream:
                stream.write(answer)
            Path(temporary).replace(path)


@dataclass(slots=True)
class TokenUsage:
    """The tokens of the answered attempt; `estimated`: not the provider's own count."""

    input: int = 0
    output: int = 0
    cached: int = 0
    estimated: bool = False


@dataclass(slots=True)
class CallRecord:
    """One call as it is written. Times are in seconds; `usd` is None where prices are not known."""

    call: str
    at: float  # unix
    candidate: str
    purpose: str
    question: str | None
    sample: int | None
    api: str
    asked_model: str
    model: str | None = None  # as the provider named it
    request: Body | str = field(default_factory=dict)
    response: Body | str = field(default_factory=dict)  # text, tool_calls
    finish_reason: str | None = None
    usage: TokenUsage = field(default_factory=TokenUsage)
    usd: float | None = 0.0
    seconds: float = 0.0
    attempts: int = 0
    cached: bool = False  # answered from the runner's own cache
    sampled: SampledCall | None = None  # of a policy; "tokens" in the file
    error: dict[str, str] | None = None  # kind, message


def append_record(path: Path, record: CallRecord) -> None:
    """Append one whole line with a single write. Raises OSError."""
    rest = {name: getattr(record, name) for name in CallRecord.__slots__ if name not in ("request", "response")}
    sampled, error = rest.pop("sampled"), rest.pop("error")
    rest |= {"usage": asdict(record.usage), "tokens": sampled and sampled.to_json(), "error": error}
    parts = [b'"request":' + _encode_part(record.request), b'"response":' + _encode_part(record.response)]
    data = b",".join([dumps(rest)[:-1], *parts]) + b"}\n"
    stream = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        written = os.write(stream, data)
        if written < len(data):
            raise OSError(f"{path}: only {written} of {len(data)} bytes written")
    finally:
        os.close(stream)


def _encode_part(part: Body | str) -> bytes:
    """Return the part's JSON where that is small, else its beginning as a marked text."""
    try:
        encoded = dumps(part)
    except RecursionError:
        return b'"[nested too deeply]"'
    if len(encoded) > _MAX_PART_BYTES:
        return dumps(encoded[:_MAX_PART_BYTES].decode(errors="ignore") + "... [cut]")
    return encoded


MAX_CONCURRENT_CALLS = 64  # concurrent calls of one sandbox, whose bodies are in memory; others wait
_MAX_REFUSED_RECORDS = 1000  # records of refused calls, which cost a harness nothing and could fill the disk
_MAX_QUESTIONS = 100_000  # ids to remember; a harness may invent any number
_OF_THE_PROVIDER = ("rate_limited", "timeout", "unreachable", "malformed", "auth", "down")  # kinds of failures


class GatewaySession:
    """One sandbox's session at the gateway. Written on the gateway's loop, read from any thread."""

    def __init__(self, grant: Grant, door: GatewayAddress, cache: AnswerCache | None) -> None:
        self.grant = grant
        self.door = door
        self.cache = cache
        self._slots = asyncio.Semaphore(MAX_CONCURRENT_CALLS)
        self._calls: set[asyncio.Task[object]] = set()
        self._lock = threading.Lock()
        self._usage = Usage()
        self._unsent = 0
        self._failing: dict[str, OutcomeKind] = {}
        self._untagged: Counter[OutcomeKind] = Counter()
        self._trouble: Exception | None = None
        self._turns: Counter[str | None] = Counter()
        # a policy's answers by question, in the order of finishing, where the grant has no file for them
        self.sampled: defaultdict[str, list[SampledCall]] = defaultdict(list)

    def turn(self, question: str | None) -> int:
        """Return the number of earlier calls for `question`; bounded, since a harness may invent questions."""
        key = question if question in self._turns or len(self._turns) < _MAX_QUESTIONS else None
        self._turns[key] += 1
        return self._turns[key] - 1

    def usage(self) -> Usage:
        """Return the spending so far."""
        with self._lock:
            return self._usage

    def faults(self) -> CallFailures:
        """Return the failed calls, by question and untagged."""
        with self._lock:
            return CallFailures(dict(self._failing), dict(self._untagged))

    def trouble(self) -> Exception | None:
        """Return the ProviderDown or run-wide BudgetSpent that made calls of this session fail; else None."""
        return self._trouble

    @asynccontextmanager
    async def call(self) -> AsyncIterator[None]:
        """Register the current task as a call of this session, which ends with it."""
        task = asyncio.current_task()
        calls = {task} if task else set()
        self._calls |= calls
        try:
            async with self._slots:
                yield
        finally:
            self._calls -= calls

    def spend(self, usage: Usage) -> None:
        """Add to the session's usage."""
        with self._lock:
            self._usage += usage

    def finished(self, record: CallRecord, failed: CallError | None, down: str | None) -> None:
        """Record a finished call. `down`: the reason why its provider is given up, if it is."""
        kind = None
        if failed is not None:
            reason = down or (failed.message if failed.kind == "down" else None)
            if isinstance(failed.cause, BudgetSpent):
                self._trouble = self._trouble or (failed.cause if failed.cause.scope == "run" else None)
            elif reason:
                self._trouble = self._trouble or ProviderDown(reason)
            if failed.kind in _OF_THE_PROVIDER:
                kind = OutcomeKind.RATE_LIMITED
            elif failed.kind == "budget":
                kind = OutcomeKind.BUDGET
        elif record.finish_reason in ("length", "max_tokens"):
            kind = OutcomeKind.TRUNCATED
        if failed is None or failed.kind != "cancelled":
            self._note(record.question, kind)
        self._unsent += record.attempts == 0 and not record.cached
        if self.grant.trajectories is None:
            if record.sampled is not None and record.question is not None:
                self.sampled[record.question].append(record.sampled)
        elif self._unsent <= _MAX_REFUSED_RECORDS or record.attempts:
            try:
                append_record(self.grant.trajectories, record)
            except OSError as error:
                reason = f"{self.grant.trajectories} cannot be written: {error.strerror or error}"
                self._trouble = ProviderDown(reason)

    def _note(self, question: str | None, kind: OutcomeKind | None) -> None:
        with self._lock:
            if kind is None:
                if question is not None:
                    self._failing.pop(question, None)
            elif question is not None and (question in self._failing or len(self._failing) < _MAX_QUESTIONS):
                self._failing[question] = kind
            else:
                self._untagged[kind] += 1

    async def end(self) -> None:
        """Cancel the calls under way, and wait until they are settled."""
        calls = list(self._calls)
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
