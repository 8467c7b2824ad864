"""The vLLM servers that all stages of a run share, as its own process starts, follows and ends them.

They are processes of this machine, or a job of SLURM; stages find both by the file of policy/shared_servers.py.
"""

import sys
import threading
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from sia_runner.compute.jobs import ENDED as ENDED_STATES
from sia_runner.compute.jobs import RESUBMITTED, JobCompute, JobState, RepeatedNews, telling_line
from sia_runner.compute.protocol import ComputeStep
from sia_runner.config.training import PolicyConfig
from sia_runner.experiment.resources import SERVERS
from sia_runner.policy.shared_servers import (
    ENDED,
    Addresses,
    KeptServers,
    ServersJob,
    read_addresses,
    read_ticket,
    write_addresses,
    write_ticket,
)
from sia_runner.store.files import last_lines
from sia_runner.wire.grants import ProviderDown

_LOOK = 0.25  # seconds between two looks at the file while a stage waits
_FOLLOW = 1.0  # seconds between two looks at the job
_RETURN = 15.0  # seconds until a job that ended may be in the queue again
_CLOSE_SECONDS = 10.0
# ends of a job that say nothing about what runs in it: another one is submitted, however often
_BLAMELESS = RESUBMITTED | {"TIMEOUT", "DEADLINE", "COMPLETED"}
_ANSWERED_AGAIN = 600.0  # seconds between two ends of jobs that have nothing to do with one another


class RunServers(ABC):
    """The servers of a run, started by the first `start`."""

    def __init__(self, folder: Path, record: Callable[..., object]) -> None:
        """Take the folder of logs and addresses, and what adds an event to the journal."""
        self.folder, self._record = folder, record
        self._starting, self._started = threading.Lock(), False

    def start(self) -> None:
        """Start the servers if they were not started yet, without waiting for them."""
        with self._starting:
            if not self._started:
                self._started = True
                self._start()

    def wait(self, say: Callable[[str], None]) -> None:
        """Start the servers and wait until one answers; `say` takes news of the wait. Raises ProviderDown."""
        self.start()
        began, reported = time.monotonic(), RepeatedNews()
        while not (addresses := read_addresses(self.folder)).servers:
            if addresses.failure:
                raise ProviderDown(addresses.failure)
            waited = time.monotonic() - began
            if reported.due(news := self._news(waited), waited):
                say(news)
            time.sleep(_LOOK)

    def present(self) -> frozenset[str]:
        """Return the starts of servers that answer now: another set tells that one ended meanwhile."""
        return frozenset(read_addresses(self.folder).servers)

    def close(self) -> None:
        """End the servers, if they were started."""
        with self._starting:
            started, self._started = self._started, True
        if started:
            self._close()

    @abstractmethod
    def _start(self) -> None: ...

    @abstractmethod
    def _close(self) -> None: ...

    def _news(self, waited: float) -> str:
        return ""

    def _say(self, line: str, **fields: Any) -> None:
        """Tell of an end or a start: to the journal, and to the user."""
        with suppress(OSError):  # a journal that was closed meanwhile
            self._record("server", line=line, **fields)
        print(line, file=sys.stderr, flush=True)


class ServersHere(RunServers):
    """Servers of this process."""

    def __init__(self, folder: Path, record: Callable[..., object], spec: PolicyConfig, rank: int) -> None:
        super().__init__(folder, record)
        self._kept = KeptServers(spec, rank, folder, self._say)

    def _start(self) -> None:
        self._kept.start()

    def _close(self) -> None:
        self._kept.close(ENDED)


class ServersInJob(RunServers):
    """Servers in a job of their own, which is submitted again when it ends."""

    def __init__(
        self,
        run: Path,
        folder: Path,
        record: Callable[..., object],
        compute: JobCompute,
        spec: PolicyConfig,
        rank: int,
    ) -> None:
        super().__init__(folder, record)
        self._run, self._cluster, self._spec, self._rank = run, compute.cluster, spec, rank
        self._restarts = spec.vllm.restarts
        self._thread = threading.Thread(target=self._follow, name="servers", daemon=True)
        self._closed = threading.Event()
        self._state: JobState | None = None
        self._job, self._ends, self._ended_at = "", 0, 0.0
        self._lines: tuple[str, int] = "", 0  # of whose servers how many lines are in the journal

    def _start(self) -> None:
        self._job = read_ticket(self.folder)[1]  # of an earlier process of this run, which was killed
        if not self._job or read_addresses(self.folder).failure:
            write_addresses(self.folder, Addresses())
        self._thread.start()

    def _close(self) -> None:
        self._closed.set()
        self._thread.join(_CLOSE_SECONDS)
        self._relay()
        job, addresses = self._job, read_addresses(self.folder)
        write_ticket(self.folder, "")  # a job that we do not know of ends by itself
        write_addresses(self.folder, Addresses(failure=addresses.failure or ENDED))
        if job:
            self._cluster.cancel(job)

    def _news(self, waited: float) -> str:
        news = self._cluster.waiting(self._state, waited) if self._job else ""
        return f"the vLLM servers: job {self._job} {news}" if news else ""

    def _follow(self) -> None:
        """Submit the job, and again when it ends, until the servers fail or the run ends: a thread."""
        try:
            while not self._closed.is_set():
                if not self._job:
                    self._submit()
                elif end := self._end():
                    self._after(end)
                self._relay()
                self._closed.wait(_FOLLOW)
        except Exception as error:  # noqa: BLE001 - whatever it is, stages must not wait for servers
            self._fail(f"the vLLM servers' job: {error}")

    def _submit(self) -> None:
        ticket = uuid.uuid4().hex
        write_addresses(self.folder, Addresses())
        write_ticket(self.folder, ticket)
        step = ComputeStep(SERVERS, SERVERS, self.folder, None, lambda job: None, self._print, lambda: None)
        task: Any = ServersJob(self._spec, self._rank, self._run, self.folder, ticket)
        job = self._cluster.submit(step, task)
        write_ticket(self.folder, ticket, job)
        self._job, self._state = job, None
        self._say(f"the vLLM servers are job {job}", job=job)
        if self._closed.is_set():
            self._cluster.cancel(job)

    def _end(self) -> JobState | None:
        """Return the state in which the job ended; None while it is waiting, running, or may be requeued."""
        self._state, began = self._cluster.state(self._job), time.monotonic()
        if self._state is not None and self._state.name == "PENDING" and self.present():
            write_addresses(self.folder, Addresses())  # it was requeued: these do not answer any more
        while self._state is not None and self._state.name in ENDED_STATES:
            settled = time.monotonic() - began > _RETURN or self._state.name not in RESUBMITTED
            if settled or self._closed.wait(_FOLLOW):
                return self._state
            self._state = self._cluster.state(self._job)
        return None

    def _after(self, end: JobState) -> None:
        """Forget a job that ended, so that another one is submitted; fail where that would not help."""
        if self._closed.is_set():
            return
        self._relay()
        self._cluster.forget(self._job)
        if (failure := read_addresses(self.folder).failure) and failure != ENDED:
            self._fail(failure)
            return
        line = f"the vLLM servers' job {self._job} ended as {end.name}"
        time_now = time.monotonic()
        if end.name not in _BLAMELESS:
            self._ends = 1 if time_now - self._ended_at > _ANSWERED_AGAIN and self._ended_at else self._ends + 1
            self._ended_at = time_now
            log = self.folder / f"{self._job}_0_log.err"
            line += f": {telling_line(last_lines(log))[:200]} ({log})"
        if self._ends > self._restarts:
            self._fail(f"{line}; it was started {self._ends} times")
            return
        self._say(f"{line}; another one is submitted")
        self._job = ""

    def _fail(self, failure: str) -> None:
        self._closed.set()
        write_addresses(self.folder, Addresses(failure=failure))
        self._say(failure)

    def _relay(self) -> None:
        """Write to the journal what the servers' own process noted."""
        addresses = read_addresses(self.folder)
        keeper, count = self._lines
        count = count if addresses.keeper == keeper else 0
        for line in addresses.lines[count:]:
            self._say(line)
        if addresses.keeper:
            self._lines = addresses.keeper, len(addresses.lines)

    def _print(self, line: str) -> None:
        print(line, file=sys.stderr, flush=True)
