"""A harness's session at the gateway: spending, failed calls, calls under way, cached answers, trajectories.jsonl."""

import asyncio
import contextlib
import hashlib
import json
import os
import re
import threading
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Future
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

from sia_runner.config.components import HostedProvider
from sia_runner.records import INFRASTRUCTURE_KINDS, CallFailures, GatewayAddress, OutcomeKind, SampledCall, Usage
from sia_runner.store.run_directory import write_bytes
from sia_runner.text import one_line
from sia_runner.wire.failures import CUT_REASONS, CallError
from sia_runner.wire.grants import BudgetSpent, Grant, ProviderDown
from sia_runner.wire.requests import Body, ModelRequest, dumps

_MAX_PART_BYTES = 256 << 10  # bytes kept of a request, and of a response
_TAGS = ("user", "metadata")  # fields that identify the caller and do not change the answer
MAX_CONCURRENT_CALLS = 64  # concurrent calls of one sandbox, whose bodies are in memory; others wait
_MAX_REFUSED_RECORDS = 1000  # records of refused calls, which cost a harness nothing and could fill the disk
_MAX_QUESTIONS = 100_000  # ids to remember; a harness may invent any number
_MAX_WORDS = 300  # characters of what the other side said


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
            write_bytes(path, answer, durable=False)


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
    notice: str = ""  # what the provider did to the request; in the file only where it did something


def append_record(path: Path, record: CallRecord) -> None:
    """Append one whole line with a single write. Raises OSError."""
    rest = {name: getattr(record, name) for name in CallRecord.__slots__ if name not in ("request", "response")}
    sampled, error, notice = rest.pop("sampled"), rest.pop("error"), rest.pop("notice")
    rest |= {"usage": asdict(record.usage), "tokens": sampled and sampled.to_json(), "error": error}
    rest |= {"notice": notice} if notice else {}
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


@dataclass(frozen=True, slots=True)
class _UnansweredRequest:
    """A request that failed for a reason that is not the harness's. Its repetition settles it."""

    question: str | None
    failed_at: float  # unix
    kind: OutcomeKind
    concerns_content: bool  # the harness's own failure, if the provider answers its other requests


def _digest(record: CallRecord) -> bytes:
    return hashlib.sha256(dumps([record.question, record.request])).digest()


# Does what a sandbox asks of its host, by name, on a thread of its own; its data is not trusted.
HostService = Callable[[str, Body], Future[Body]]


class GatewaySession:
    """One sandbox's session at the gateway. Written on the gateway's loop, read from any thread."""

    def __init__(
        self, grant: Grant, address: GatewayAddress, cache: AnswerCache | None, service: HostService | None = None
    ) -> None:
        self.grant, self.address, self.cache, self._service = grant, address, cache, service
        self._slots = asyncio.Semaphore(MAX_CONCURRENT_CALLS)
        self._calls: set[asyncio.Task[object]] = set()
        self._lock, self._usage, self._unsent = threading.Lock(), Usage(), 0
        self._unanswered: dict[bytes, list[_UnansweredRequest]] = {}
        self._last: dict[str, OutcomeKind] = {}  # cut, not waited for or the harness's own failure, by question
        self._untagged: Counter[OutcomeKind] = Counter()
        self._words: dict[OutcomeKind, str] = {}
        self._failures: set[tuple[OutcomeKind, str]] = set()  # kinds and messages, without their numbers
        self._seconds: dict[bool, list[float]] = {True: [], False: []}  # of calls answered, and not waited for
        self._trouble: BaseException | None = None
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
            answered, abandoned = self._seconds[True], self._seconds[False]
            questions, untagged, words = dict(self._last), Counter(self._untagged), dict(self._words)
            for request in (request for requests in self._unanswered.values() for request in requests):
                kind = OutcomeKind.NO_ANSWER if request.concerns_content and answered else request.kind
                if request.question is None:
                    untagged[kind] += 1
                elif questions.get(request.question) not in INFRASTRUCTURE_KINDS:
                    questions[request.question] = kind
                words[kind] = words.get(kind) or self._words[request.kind]
        if abandoned:
            words[OutcomeKind.TIMEOUT] = (
                f"not waited for: {len(abandoned)}, after {sum(abandoned) / len(abandoned):.1f} s each; "
                + (f"an answer took {sum(answered) / len(answered):.1f} s" if answered else "none was answered")
            )
        return CallFailures(questions, dict(untagged), words)

    def refusal(self) -> str:
        """Return the provider's words if it refused all requests alike; else an empty text."""
        alike = len(self._failures) == 1 and not self._seconds[True]
        return self._words.get(OutcomeKind.REFUSED, "") if alike else ""

    def trouble(self) -> BaseException | None:
        """Return the ProviderDown or run-wide BudgetSpent that made calls fail, or what a service raised; else None."""
        return self._trouble

    async def serve(self, name: str, body: Body) -> Body | None:
        """Return what the host's service answers; None without one. What it raises ends the proposal: see `trouble`."""
        if self._service is None:
            return None
        try:
            return await asyncio.wrap_future(self._service(name, body))
        except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 - raised again by whoever opened the session
            self._trouble = self._trouble or error
            return {"error": "the runner cannot go on with this proposal: end your work"}

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
        if failed is not None:
            reason = down or (failed.message if failed.kind == "down" else None)
            if isinstance(failed.cause, BudgetSpent):
                self._trouble = self._trouble or (failed.cause if failed.cause.scope == "run" else None)
            elif reason:
                self._trouble = self._trouble or ProviderDown(reason)
        with self._lock:
            self._note(record, failed)
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

    def _note(self, record: CallRecord, failed: CallError | None) -> None:
        question, kind = record.question, None if failed is None else failed.outcome or OutcomeKind.NO_ANSWER
        if failed is not None and kind is not None and kind in INFRASTRUCTURE_KINDS:
            self._settle_earlier(record)
            request = _UnansweredRequest(question, time.time(), kind, failed.concerns_content)
            if len(self._unanswered) < _MAX_QUESTIONS:
                self._unanswered.setdefault(_digest(record), []).append(request)
            else:
                self._untagged[kind] += 1
        elif failed is None and self._unanswered:
            self._settle_earlier(record)
        if failed is None or kind is OutcomeKind.TIMEOUT:
            self._seconds[failed is None].append(record.seconds)
        if failed is not None and kind is not None:
            words = one_line(failed.message, _MAX_WORDS)
            self._words.setdefault(kind, words)
            if len(self._failures) < 2:
                self._failures.add((kind, re.sub(r"\d+", "0", words)))
        elif record.finish_reason is not None and record.finish_reason.lower() in CUT_REASONS:
            kind = OutcomeKind.TRUNCATED
        if kind is None or kind in INFRASTRUCTURE_KINDS:
            self._last.pop(question or "", None)
        elif question is not None and (question in self._last or len(self._last) < _MAX_QUESTIONS):
            self._last[question] = kind
        else:
            self._untagged[kind] += 1

    def _settle_earlier(self, record: CallRecord) -> None:
        """Forget an equal request that had failed when this one was sent; each of several needs a repetition."""
        digest = _digest(record)
        requests = self._unanswered.get(digest, [])
        sent = record.at + 0.001  # rounded to a millisecond
        settled = next((request for request in requests if request.failed_at <= sent), None)
        if settled is not None:
            requests.remove(settled)
            if not requests:
                del self._unanswered[digest]

    async def end(self) -> None:
        """Cancel the calls under way, and wait until they are settled."""
        calls = list(self._calls)
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
