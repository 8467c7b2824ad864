"""The vLLM servers that a run starts itself: started on GPUs of their own, asked in turn, started again, ended always.

Each is in the hands of a guard (vllm_guard.py), which ends it with this process, however that ends.
"""

import contextlib
import os
import re
import secrets
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from sia_runner.config.training import PolicyConfig
from sia_runner.policy import vllm_guard
from sia_runner.policy.vllm_client import VLLM_KEY_VARIABLE, VllmServer
from sia_runner.system import run_parallel
from sia_runner.text import strip_control_characters
from sia_runner.wire.failures import CallError
from sia_runner.wire.policy import PolicyError

_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)  # what vLLM takes as --max-lora-rank
_POLL_SECONDS = 0.25
_DYING_SECONDS = 5.0  # from an engine's failure to the end of its server
_LOG_BYTES = 256 << 10  # of a log's end, in which the cause of an end is looked for
_ERROR = re.compile(r"\b(\w+(Error|Exception)|error): .+")
_HARMLESS = re.compile(r"\b(DEBUG|INFO|WARNING) \d\d-\d\d ")  # which name errors that may happen
_CLOSE_SECONDS = 5.0  # beyond those that a guard takes
# Of the process that starts a server, which would take itself for a part of its group.
_FOREIGN = ("RANK", "LOCAL_RANK", "GROUP_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")

LOOPBACK = "127.0.0.1"
SERVER_CARDS = "SIA_SERVER_CARDS"

Result = TypeVar("Result")


@dataclass(eq=False, slots=True)
class _Managed:
    """One of the servers: its process is another one after each restart."""

    number: int  # from 1
    cards: str | None  # its CUDA_VISIBLE_DEVICES; None: as this process
    log: Path
    log_start: int = 0  # where the log of the process begins in the file, bytes
    guard: "subprocess.Popen[bytes] | None" = None
    client: VllmServer | None = None
    start: str = ""  # tells this start of it from the others
    url: str = ""
    up: bool = False  # it answers, with all adapters
    busy: int = 0  # requests under way
    requests: int = 0  # so far
    loaded: set[str] = field(default_factory=set[str])
    failure: str = ""  # why it will not be up again


class ManagedServers:
    """The servers of one process, and their common client; methods block, raise CallError, and any thread may call."""

    def __init__(
        self,
        spec: PolicyConfig,
        rank: int,
        logs: Path,
        say: Callable[[str], None],
        *,
        host: str = LOOPBACK,
        tell: Callable[[Mapping[str, str], str], None] = lambda servers, failure: None,
    ) -> None:
        """Start nothing yet. `rank`: the largest of the adapters; `say` takes a line when a server ends.

        `host`: the name of this machine that clients on others know. `tell` takes the addresses of the servers that
        answer, by their starts, whenever these change, and why none will answer any more, if so; it must not block.
        """
        self._spec, self._settings, self._rank, self._say = spec, spec.vllm, rank, say
        self._host, self._tell = host, tell
        self.key = secrets.token_hex(16)  # others on this machine must not load adapters
        self.interruptions = 0  # times that a request had to wait, or to be sent again, because a server ended
        self._changed = threading.Condition()
        self._adapters: dict[str, Path] = {}  # by name; a server that was started again gets them again
        self._closed, self._failure = False, "the vLLM servers were ended while they started"
        name = f"{socket.gethostname()}-{os.getpid()}"
        self._logs, self._file = logs, name
        self._servers: list[_Managed] = []
        self._threads: list[threading.Thread] = []
        self.address = f"the run's vLLM (logs: {logs.name}/{name}-*.log)"

    def start(self) -> None:
        """Start all servers and wait until they answer. Raises PolicyError, with the end of the log."""
        cards = cards_of_servers(self._spec)
        self._logs.mkdir(parents=True, exist_ok=True)
        with self._changed:
            if self._closed:
                raise PolicyError(self._failure)
            for number, devices in enumerate(cards, 1):
                log = self._logs / f"{self._file}-{number}.log"
                server = _Managed(number, devices, log)
                self._servers.append(server)
                thread = threading.Thread(target=self._keep_up, args=[server], name=f"vllm {number}", daemon=True)
                self._threads.append(thread)
        for thread in self._threads:
            thread.start()
        with self._changed:
            self._changed.wait_for(lambda: self._closed or all(server.up or server.failure for server in self._servers))
            failures = [server.failure for server in self._servers if server.failure]
            self._failure = (failures or [self._failure])[0]
            usable = not self._closed and not failures
        if not usable:
            self.close()
            raise PolicyError(self._failure)

    def close(self) -> None:
        """End all servers and what they started; safe to call twice, and while they start."""
        with self._changed:
            self._closed = True
            guards = [server.guard for server in self._servers if server.guard is not None]
            self._changed.notify_all()
        for guard in guards:
            _release(guard)
        deadline = time.monotonic() + vllm_guard.TERM_SECONDS + _CLOSE_SECONDS
        for guard in guards:
            with contextlib.suppress(subprocess.TimeoutExpired):
                guard.wait(max(0.0, deadline - time.monotonic()))
            _kill_group(guard)
            guard.wait()
        for thread in self._threads:
            if thread is not threading.current_thread() and thread.ident is not None:
                thread.join(_CLOSE_SECONDS)

    def wait(self) -> None:
        """Wait until a server answers. Raises PolicyError if none will."""
        with self._changed:
            try:
                self._wait_until_up()
            except CallError as failed:
                raise PolicyError(failed.message) from None

    # The methods of VllmServer.

    def context(self, model: str, seconds: float) -> int:
        """Return the context length of a model in tokens, prompt and completion together."""
        return self._ask(lambda server: server.context(model, seconds))

    def load(self, name: str, folder: Path) -> None:
        """Serve the adapter in `folder` as model `name` at every server, and at those that are started later."""
        with self._changed:
            self._adapters[name] = folder
            self._wait_until_up()
            servers = [server for server in self._servers if server.up]

        def load(server: _Managed) -> CallError | None:
            client, guard = server.client, server.guard
            try:
                if client is not None:
                    client.load(name, folder)
                server.loaded.add(name)
            except CallError as failed:
                return None if _has_ended(guard, failed) else failed
            return None

        failures = [failed for failed in run_parallel(load, servers, len(servers)) if failed]
        if failures:
            with contextlib.suppress(CallError):
                self.unload(name)
            raise failures[0]

    def unload(self, name: str, seconds: float = 300.0) -> None:
        """Stop serving the adapter `name`."""
        with self._changed:
            self._adapters.pop(name, None)
            servers = [server for server in self._servers if server.up and name in server.loaded]

        def unload(server: _Managed) -> CallError | None:
            server.loaded.discard(name)
            try:
                if server.client is not None:
                    server.client.unload(name, seconds)
            except CallError as failed:
                return None if _has_ended(server.guard, failed) else failed
            return None

        if failures := [failed for failed in run_parallel(unload, servers, max(1, len(servers))) if failed]:
            raise failures[0]

    def complete(
        self, model: str, salt: str, prompt_ids: Sequence[int], seconds: float, **settings: Any
    ) -> tuple[tuple[int, ...], tuple[float, ...], str]:
        """Complete token ids; return ids, logprobs (natural log) and "stop" or "length"."""
        return self._ask(lambda server: server.complete(model, salt, prompt_ids, seconds, **settings))

    def score(self, model: str, salt: str, ids: Sequence[int], count: int, seconds: float) -> list[float]:
        """Return the logprobs of the last `count` of `ids`, at temperature 1; one token is sampled besides."""
        return self._ask(lambda server: server.score(model, salt, ids, count, seconds))

    def logprob_range(self, model: str, prompt_ids: Sequence[int], temperature: float, seconds: float) -> float:
        """Return the range of the logprobs of the likeliest next tokens, in nats, at `temperature`."""
        return self._ask(lambda server: server.logprob_range(model, prompt_ids, temperature, seconds))

    def _ask(self, ask: Callable[[VllmServer], Result]) -> Result:
        """Ask the server with the fewest requests under way, and another one where it ends before it answers."""
        while True:
            with self._changed:
                self.interruptions += not any(map(_is_up, self._servers))
                self._wait_until_up()
                up = [server for server in self._servers if server.up]
                server = min(up, key=lambda server: (server.busy, server.requests))
                client, guard = server.client, server.guard
                server.busy += 1
                server.requests += 1
            try:
                if client is not None:
                    return ask(client)
            except CallError as failed:
                if not _has_ended(guard, failed):
                    raise
            finally:
                with self._changed:
                    server.busy -= 1
            with self._changed:  # its thread notices as well, but perhaps later
                self.interruptions += 1
                if server.guard is guard:
                    server.up = False

    def _wait_until_up(self) -> None:
        """Wait, with the lock, until a server is up. Raises CallError if none will be."""
        self._changed.wait_for(
            lambda: self._closed or any(map(_is_up, self._servers)) or all(map(_has_failed, self._servers))
        )
        if self._closed:
            raise CallError("unreachable", "the run's vLLM servers were ended", sent=False, final=True)
        if not any(server.up for server in self._servers):
            raise CallError("unreachable", self._servers[0].failure, sent=False, final=True)

    def _keep_up(self, server: _Managed) -> None:
        """Start a server, and again when it ends, as often as configured: the thread of this server."""
        for attempt in range(self._settings.restarts + 1):
            began = time.monotonic()
            problem = self._start(server)
            never_up = bool(problem) and not attempt  # starting it again would change nothing
            if not problem:
                if attempt:
                    self._say(f"vLLM server {server.number} answers again after {time.monotonic() - began:.0f} s")
                if server.guard is not None:
                    server.guard.wait()
                problem = _end_of(server)
            with self._changed:
                server.up = False
                server.loaded.clear()
                if self._closed:
                    return
                last = never_up or attempt == self._settings.restarts
                if last:
                    server.failure = problem
                self._tell_all()
                self._changed.notify_all()
            if last:
                self._say(problem)
                return
            self._say(f"{problem}; it is started again, {attempt + 1} of {self._settings.restarts} times")

    def _start(self, server: _Managed) -> str:
        """Start a server's process and wait until it answers with all adapters; else return why it does not."""
        port = _free_port(self._host)
        environment = {name: value for name, value in os.environ.items() if not _is_foreign(name)}
        environment |= {VLLM_KEY_VARIABLE: self.key, "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1"}
        environment |= {"VLLM_NO_USAGE_STATS": "1", "PYTHONUNBUFFERED": "1"}
        if server.cards is not None:
            environment["CUDA_VISIBLE_DEVICES"] = server.cards
        with server.log.open("ab") as log, self._changed:
            if self._closed:
                return "closed"
            server.log_start = log.tell()
            server.guard = guard = subprocess.Popen(
                [sys.executable, "-I", vllm_guard.__file__, *self._command(port)],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                env=environment,
                start_new_session=True,
            )
        server.start, server.url = uuid.uuid4().hex, f"http://{self._host}:{port}/v1"
        server.client = client = VllmServer(server.url, self.key)
        deadline = time.monotonic() + self._settings.startup
        while not client.is_healthy():
            if guard.poll() is not None:
                return _end_of(server)
            if time.monotonic() > deadline:
                _release(guard)
                guard.wait()
                what = f"vLLM server {server.number} did not answer within {self._settings.startup:g} s"
                return f"{what} (target_agent.policy.vllm.startup): {_telling_line(server)} ({server.log})"
            time.sleep(_POLL_SECONDS)
        return self._restore(server, client)

    def _restore(self, server: _Managed, client: VllmServer) -> str:
        """Load all adapters at a server that answers, and let requests reach it; return why it cannot."""
        while True:
            with self._changed:
                missing = {name: folder for name, folder in self._adapters.items() if name not in server.loaded}
                if not missing:
                    server.up = True
                    self._tell_all()
                    self._changed.notify_all()
                    return ""
            for name, folder in missing.items():
                try:
                    client.load(name, folder)
                    server.loaded.add(name)
                except CallError as failed:
                    with self._changed:
                        if name not in self._adapters:  # unloaded meanwhile
                            continue
                    if server.guard is not None:
                        _release(server.guard)
                        server.guard.wait()
                    return f"vLLM server {server.number} does not take the adapter {name} again: {failed.message}"

    def _tell_all(self) -> None:
        """Tell, with the lock, which servers answer."""
        failure = "" if not all(map(_has_failed, self._servers)) else self._servers[0].failure
        self._tell({server.start: server.url for server in self._servers if server.up}, failure)

    def _command(self, port: int) -> list[str]:
        spec, settings = self._spec, self._settings
        folder = Path(spec.base).expanduser()
        base = str(folder.resolve()) if folder.is_dir() else spec.base
        rank = next((allowed for allowed in _RANKS if allowed >= self._rank), self._rank)
        options = ["--host", _listening_address(self._host), "--port", str(port), "--served-model-name", spec.base]
        options += ["--enable-lora", "--max-lora-rank", str(rank), "--logprobs-mode", "processed_logprobs"]
        options += ["--disable-uvicorn-access-log"]
        if settings.tensor_parallel > 1:
            options += ["--tensor-parallel-size", str(settings.tensor_parallel)]
        program, *words = settings.command
        return [str(Path(program).expanduser()), *words, base, *options, *settings.args]


def cards_of_servers(spec: PolicyConfig) -> list[str | None]:
    """Return the CUDA_VISIBLE_DEVICES of each server: the last GPUs, since training takes the first.

    A process that sees only its own GPU has those of the servers in SIA_SERVER_CARDS. None where no GPU is visible.
    Raises PolicyError if there are too few.
    """
    settings = spec.vllm
    visible, beside = os.environ.get("CUDA_VISIBLE_DEVICES"), os.environ.get(SERVER_CARDS)
    named, count = visible if beside is None else beside, settings.servers * settings.tensor_parallel
    if named is None:
        import torch

        cards = [str(number) for number in range(torch.cuda.device_count())]
    else:
        cards = [name.strip() for name in named.split(",") if name.strip()]
    if not cards and not (beside is not None and visible):
        return [None] * settings.servers
    if len(cards) < count:
        raise PolicyError(
            f"target_agent.policy.vllm: servers={settings.servers} of tensor_parallel={settings.tensor_parallel} need "
            f"{count} GPUs; this machine shows {len(cards)}"
            + (" beside those that train" if beside is not None else "")
        )
    last, size = cards[-count:], settings.tensor_parallel
    return [",".join(last[at : at + size]) for at in range(0, count, size)]


def _is_up(server: _Managed) -> bool:
    return server.up


def _has_failed(server: _Managed) -> bool:
    return bool(server.failure)


def _free_port(host: str) -> int:
    with socket.socket() as probe:
        probe.bind((LOOPBACK if host == LOOPBACK else "", 0))
        return probe.getsockname()[1]


def _listening_address(host: str) -> str:
    """Return what a server listens on to be reached by this name: where it means loopback here, all addresses."""
    if host == LOOPBACK:
        return host
    addresses: set[str] = set()
    with contextlib.suppress(OSError):
        addresses = {str(entry[4][0]) for entry in socket.getaddrinfo(host, None, socket.AF_INET)}
    named = addresses and not any(address.startswith("127.") for address in addresses)
    return host if named else "0.0.0.0"  # noqa: S104 - the key is asked for


def _is_foreign(name: str) -> bool:
    return name in _FOREIGN or name.startswith("TORCHELASTIC_")


def _has_ended(guard: "subprocess.Popen[bytes] | None", failed: CallError) -> bool:
    """Return True if a call failed because the server ended, which may take a moment after its engine's end."""
    if guard is None or (failed.status is not None and failed.status < 500) or failed.kind == "timeout":
        return guard is None
    with contextlib.suppress(subprocess.TimeoutExpired):
        guard.wait(_DYING_SECONDS)
    return guard.poll() is not None


def _release(guard: "subprocess.Popen[bytes]") -> None:
    """Tell a guard to end its server."""
    if guard.stdin is not None:
        with contextlib.suppress(OSError):
            guard.stdin.close()


def _kill_group(guard: "subprocess.Popen[bytes]") -> None:
    """Kill what is left of a guard's group: nothing, unless the guard itself was killed or hangs."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(guard.pid, 9)


def _end_of(server: _Managed) -> str:
    """Describe the end of a server in one line, and end what a killed guard left."""
    code = None
    if server.guard is not None:
        code = server.guard.wait()
        _kill_group(server.guard)
        _release(server.guard)
    return f"vLLM server {server.number} ended (exit code {code}): {_telling_line(server)} ({server.log})"


def _telling_line(server: _Managed) -> str:
    """Return the first line of a process's log that names an error, else its last line; the first is the cause."""
    with server.log.open("rb") as file:
        file.seek(max(server.log_start, file.seek(0, os.SEEK_END) - _LOG_BYTES))
        lines = strip_control_characters(file.read().decode(errors="replace")).splitlines()
    lines = [line.strip() for line in lines if line.strip()]
    errors = [match[0] for line in lines if not _HARMLESS.search(line) and (match := _ERROR.search(line))]
    return ([*errors, *lines[-1:]] or ["its log is empty"])[0][:300]
