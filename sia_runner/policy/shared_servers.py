"""The vLLM servers that all stages of a run share: who keeps them, the file with their addresses, and its readers.

They are kept by the process of the run, or by a job of their own. Whoever keeps them writes RUN/servers/addresses.json,
which only the user may read, since it has their key; a server that is started again has another address.
"""

import json
import os
import signal
import socket
import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from sia_runner.config.training import PolicyConfig
from sia_runner.policy.vllm_client import VllmServer
from sia_runner.policy.vllm_servers import LOOPBACK, ManagedServers
from sia_runner.store.lease import STALE_AFTER, lease_is_held
from sia_runner.store.run_directory import read_json, write_bytes
from sia_runner.system import run_parallel
from sia_runner.wire.failures import CallError
from sia_runner.wire.policy import PolicyError

ENDED = "the run has ended its vLLM servers"
_LOOK = 0.25  # seconds between two looks at the file
_DYING_SECONDS = 5.0  # from an engine's failure to the end of its server
_TRIES = 3  # of one request, each after its adapter was loaded again
_LEASE_LOOK = 10.0  # seconds between two looks of the servers' job at the lease of the run
_ALONE = STALE_AFTER  # seconds without a process of the run, after which that job ends

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Addresses:
    """The servers, as their readers know them."""

    keeper: str = ""  # tells who keeps the servers from who did so before
    key: str = field(default="", repr=False)
    servers: Mapping[str, str] = field(default_factory=dict[str, str])  # addresses of those that answer, by their start
    failure: str = ""  # why none will answer any more
    lines: tuple[str, ...] = ()  # what happened to them, for the journal


def addresses_file(folder: Path) -> Path:
    """Return the path of the addresses in the folder of a run's servers."""
    return folder / "addresses.json"


def write_addresses(folder: Path, addresses: Addresses) -> None:
    """Replace the file, which nobody but this user may read."""
    folder.mkdir(parents=True, exist_ok=True)
    write_bytes(addresses_file(folder), json.dumps(asdict(addresses)).encode(), durable=False, private=True)


def read_addresses(folder: Path) -> Addresses:
    """Return the content of the file; nothing is known where there is none yet."""
    try:
        content = read_json(addresses_file(folder))
        return Addresses(**(content | {"lines": tuple(content["lines"])}))
    except (OSError, ValueError, TypeError, KeyError):  # or one of another version
        return Addresses()


class ServerKeeper:
    """Servers of this process whose addresses are in the file of `folder`; any thread may call."""

    def __init__(
        self, spec: PolicyConfig, rank: int, folder: Path, say: Callable[[str], None], host: str = LOOPBACK
    ) -> None:
        """Start nothing yet. `say` takes a line when a server ends, which readers of the file find there as well."""
        self._folder, self._say, self._lock = folder, say, threading.Lock()
        self._servers = ManagedServers(spec, rank, folder, self._note, host=host, tell=self._tell)
        self._addresses = Addresses(uuid.uuid4().hex, self._servers.key)
        self._closed = False
        self._thread = threading.Thread(target=self._start, name="vllm", daemon=True)

    @property
    def keeper(self) -> str:
        """The id by which the file tells this keeper of servers from others."""
        return self._addresses.keeper

    @property
    def failure(self) -> str:
        """The reason why no server will answer any more; else empty."""
        return self._addresses.failure

    def start(self) -> None:
        """Start the servers, without waiting for them."""
        self._write()
        self._thread.start()

    def close(self, failure: str = "") -> None:
        """End the servers. `failure`: what readers are told, who would otherwise wait for other servers."""
        with self._lock:
            ours = read_addresses(self._folder).keeper in ("", self.keeper)
            if not self._closed and ours:
                failure = self.failure or failure
                self._addresses = replace(self._addresses, servers={}, failure=failure, key="")
                write_addresses(self._folder, self._addresses)
            self._closed = True
        self._servers.close()

    def repeat(self) -> None:
        """Write the file again, which somebody emptied."""
        self._write()

    def leave(self) -> None:
        """End the servers, and leave the file to those that took their place."""
        with self._lock:
            self._closed = True
        self._servers.close()

    def _start(self) -> None:
        try:
            self._servers.start()
        except PolicyError as failed:
            self._write(servers={}, failure=str(failed))
        except Exception as failed:  # noqa: BLE001 - whatever it is, nobody must wait for these servers
            self._write(servers={}, failure=f"the vLLM servers: {type(failed).__name__}: {failed}")

    def _tell(self, servers: Mapping[str, str], failure: str) -> None:
        self._write(servers=servers, failure=failure)

    def _note(self, line: str) -> None:
        self._write(line)
        self._say(line)

    def _write(self, *lines: str, **changes: Any) -> None:
        with self._lock:
            if not self._closed:
                self._addresses = replace(self._addresses, lines=(*self._addresses.lines, *lines), **changes)
                write_addresses(self._folder, self._addresses)


@dataclass(eq=False, slots=True)
class _Shared:
    """One start of a server, as this process sees it."""

    start: str
    client: VllmServer
    loading: threading.Lock = field(default_factory=threading.Lock)
    loaded: set[str] = field(default_factory=set[str])
    busy: int = 0  # requests of this process under way
    requests: int = 0  # so far
    silent: bool = False  # it did not answer, and the file does not say why


class SharedServers:
    """The client of servers that all stages share; methods block, raise CallError, and any thread may call."""

    def __init__(self, folder: Path, startup: float) -> None:
        """Take the folder with the addresses, and the seconds for which a request waits for a server."""
        self._folder, self._startup = folder, startup
        self._closed, self._lock = threading.Event(), threading.Lock()
        self._addresses, self._looked = Addresses(), 0.0
        self._servers: dict[str, _Shared] = {}
        self._adapters: dict[str, Path] = {}  # by name
        self.interruptions = 0  # times that a request had to wait, or to be sent again, because a server ended
        self.address = f"the run's vLLM (logs: {folder.name}/)"

    def start(self) -> None:
        """Wait until a server answers. Raises PolicyError if none does in time, or none will."""
        self.wait()

    def wait(self) -> None:
        """Wait until a server answers. Raises PolicyError if none does in time, or none will."""
        try:
            self._answering(counts=False)
        except CallError as failed:
            raise PolicyError(failed.message) from None

    def close(self) -> None:
        """Let no request wait any more; the servers go on."""
        self._closed.set()

    # The methods of VllmServer.

    def context(self, model: str, seconds: float) -> int:
        """Return the context length of a model in tokens, prompt and completion together."""
        return self._ask(model, lambda server: server.context(model, seconds))

    def load(self, name: str, folder: Path) -> None:
        """Serve the adapter in `folder` as model `name` at every server, and at those that are started later."""
        self._adapters[name] = folder

        def load(server: _Shared) -> CallError | None:
            try:
                self._load(server, name)
            except CallError as failed:
                return None if self._has_ended(server, failed) else failed
            return None

        servers = self._answering()
        if failures := [failed for failed in run_parallel(load, servers, len(servers)) if failed]:
            with suppress(CallError):
                self.unload(name)
            raise failures[0]

    def unload(self, name: str, seconds: float = 300.0) -> None:
        """Stop serving the adapter `name`; another stage that still asks for it loads it again."""
        self._adapters.pop(name, None)
        self._look()
        servers = [server for server in list(self._servers.values()) if name in server.loaded]
        failures: list[CallError] = []
        for server in servers:
            server.loaded.discard(name)
            try:
                server.client.unload(name, seconds)
            except CallError as failed:
                failures += [failed] if failed.status is not None and failed.status < 500 else []
        if failures:
            raise failures[0]

    def complete(
        self, model: str, salt: str, prompt_ids: Sequence[int], seconds: float, **settings: Any
    ) -> tuple[tuple[int, ...], tuple[float, ...], str]:
        """Complete token ids; return ids, logprobs (natural log) and "stop" or "length"."""
        return self._ask(model, lambda server: server.complete(model, salt, prompt_ids, seconds, **settings))

    def score(self, model: str, salt: str, ids: Sequence[int], count: int, seconds: float) -> list[float]:
        """Return the logprobs of the last `count` of `ids`, at temperature 1; one token is sampled besides."""
        return self._ask(model, lambda server: server.score(model, salt, ids, count, seconds))

    def logprob_range(self, model: str, prompt_ids: Sequence[int], temperature: float, seconds: float) -> float:
        """Return the range of the logprobs of the likeliest next tokens, in nats, at `temperature`."""
        return self._ask(model, lambda server: server.logprob_range(model, prompt_ids, temperature, seconds))

    def _ask(self, model: str, ask: Callable[[VllmServer], Result]) -> Result:
        """Ask the server with the fewest requests under way, and another one where it ends before it answers."""
        tries = 0
        while True:
            servers = self._answering()
            with self._lock:
                server = min(servers, key=lambda server: (server.busy, server.requests))
                server.busy += 1
                server.requests += 1
            try:
                self._load(server, model)
                return ask(server.client)
            except CallError as failed:
                tries += 1
                if failed.status == 404 and model in self._adapters and tries < _TRIES:
                    server.loaded.discard(model)  # another stage unloaded it
                    continue
                if not self._has_ended(server, failed):
                    raise
                self.interruptions += 1
            finally:
                with self._lock:
                    server.busy -= 1

    def _load(self, server: _Shared, name: str) -> None:
        """Load an adapter of ours at a server that does not have it yet."""
        folder = self._adapters.get(name)
        if folder is None or name in server.loaded:
            return
        with server.loading:
            if name not in server.loaded:
                server.client.load(name, folder)
                server.loaded.add(name)

    def _answering(self, *, counts: bool = True) -> list[_Shared]:
        """Return the servers that answer, waiting for one. Raises CallError where none will, or none does in time.

        `counts`: a wait is an interruption of what asks.
        """
        deadline = time.monotonic() + self._startup
        while True:
            self._look()
            servers = [server for server in list(self._servers.values()) if not server.silent]
            if servers:
                return servers
            if self._closed.is_set():
                raise CallError("unreachable", "the run's vLLM servers are asked no more", sent=False, final=True)
            if self._addresses.failure:
                raise CallError("down", self._addresses.failure, sent=False)
            if time.monotonic() > deadline:
                limit = f"{self._startup:g} s (target_agent.policy.vllm.startup)"
                raise CallError("down", f"no vLLM server of the run answered for {limit}: {self._folder}", sent=False)
            self.interruptions += counts
            counts = False
            self._closed.wait(_LOOK)

    def _look(self, *, at_once: bool = False) -> None:
        """Read the file again, if it was not read just before, and ask silent servers whether they answer."""
        with self._lock:
            if not at_once and time.monotonic() - self._looked < _LOOK:
                return
            self._addresses = addresses = read_addresses(self._folder)
            for start in self._servers.keys() - addresses.servers.keys():
                del self._servers[start]
            for start, url in addresses.servers.items():
                if start not in self._servers:
                    self._servers[start] = _Shared(start, VllmServer(url, addresses.key))
            for server in self._servers.values():
                server.silent = server.silent and not server.client.is_healthy()
            self._looked = time.monotonic()

    def _has_ended(self, server: _Shared, failed: CallError) -> bool:
        """Return True if a call failed because the server ended, which may take a moment after its engine's end."""
        if failed.kind in ("timeout", "down") or (failed.status is not None and failed.status < 500):
            return False
        deadline = time.monotonic() + _DYING_SECONDS
        while time.monotonic() < deadline:
            self._look(at_once=True)
            if server.start not in self._servers:
                return True
            if not server.client.is_healthy():
                server.silent = True
                return True
            time.sleep(_LOOK)
        return False


def write_ticket(folder: Path, ticket: str, job: str = "") -> None:
    """Record which job keeps the servers of a run; its number follows once it is known."""
    folder.mkdir(parents=True, exist_ok=True)
    write_bytes(folder / "job.json", json.dumps({"ticket": ticket, "job": job}).encode())


def read_ticket(folder: Path) -> tuple[str, str]:
    """Return the ticket and the number of the job that keeps the servers; both empty where there is none."""
    try:
        content = read_json(folder / "job.json")
    except (OSError, ValueError):
        return "", ""
    return content["ticket"], content["job"]


@dataclass(frozen=True, slots=True)
class ServersJob:
    """The servers as a job of their own, which ends with the run, however that ends."""

    spec: PolicyConfig
    rank: int
    run: Path
    folder: Path
    ticket: str

    def __call__(self) -> None:
        """Keep the servers until the job is told to end, another one has its place, or no process has the run."""
        stopped = threading.Event()
        for number in (signal.SIGTERM, signal.SIGUSR2):  # from outside, and of the cluster before it ends the job
            signal.signal(number, lambda *_: stopped.set())
        if read_ticket(self.folder)[0] != self.ticket:
            return
        servers = ServerKeeper(self.spec, self.rank, self.folder, _print, socket.gethostname())
        servers.start()
        last_look = last_holder = time.monotonic()
        while not stopped.wait(_LOOK * 4) and not servers.failure:
            keeper = read_addresses(self.folder).keeper
            if keeper not in ("", servers.keeper) or read_ticket(self.folder)[0] != self.ticket:
                servers.leave()
                return
            if not keeper:  # the process of the run took this job for one that waits
                servers.repeat()
            time_now = time.monotonic()
            if time_now - last_look > _LEASE_LOOK:
                last_look = time_now
                last_holder = time_now if lease_is_held(self.run) else last_holder
            if time_now - last_holder > _ALONE + _LEASE_LOOK:
                servers.close(ENDED)
                return
        servers.close()
        if servers.failure:
            _print(servers.failure)
            os._exit(1)  # a job that failed


def _print(line: str) -> None:
    print(line, flush=True)
