"""Watch one sandboxed child until it ends or meets a limit.

Without a cgroup memory is sampled every `TICK` seconds, so it may overshoot by what can be touched in that time (about
2 GiB/s per processor: 100 MiB at `cpus: 1`), with RLIMIT_AS as backstop. `work` is walked every `DISK_TICK` seconds,
less often where walking takes long, so disk use may overshoot by what the disk takes in that time.
"""

import os
import select
import signal
import time

from sia_runner.sandbox import tree, workdir
from sia_runner.sandbox.output import Output

TYPE_CHECKING = False  # as the type checkers understand it; importing what is below would cost the start
if TYPE_CHECKING:
    from sia_runner.sandbox.child import Child
    from sia_runner.sandbox.container import Container

TICK = 0.05
DISK_TICK = 0.2
_SHARE = 5  # a look at the disk may take at most 1/(1 + this) of the time
_SPARE = 4  # processes: bubblewrap's own, and one that is just ending
_MEMORY_ERRORS = ("MemoryError", "std::bad_alloc", "Cannot allocate memory")


class Watch:
    """A watchdog over one sandboxed program."""

    def __init__(self, plan: dict, wake: int, child: "Child | Container") -> None:
        self._plan = plan
        self._limits = plan["limits"]
        self._wake = wake
        self._child = child
        self._output = Output(self._limits["output"])
        self._start = time.monotonic()
        self._parent = os.getppid()
        self._machine_kills = _machine_oom_kills()
        self._ending = ""
        self._detail = ""
        self._peak = 0
        self._next_disk = self._start + DISK_TICK
        self._next_tick = self._start + TICK

    def until_over(self) -> None:
        """Read output and check limits until the program ends or has to be ended."""
        poll = select.poll()
        for fd in (0, self._wake, self._child.output):
            poll.register(fd, select.POLLIN)
        while not self._ending:
            wait = min(self._next_tick, self._start + self._limits["seconds"]) - time.monotonic()
            for fd, _ in poll.poll(max(0, wait * 1000)):
                if fd == self._child.output:
                    if self._read() == b"":
                        poll.unregister(fd)  # closed by all who could write: the child itself may still live
                    self._check_end()
                elif fd == self._wake:
                    self._signals()
                elif fd == 0:
                    self._over("interrupted", "stopped by the runner")
            self._check()

    def result(self, all_ended: bool) -> dict:
        """Return the result of the run, after everything below us was killed."""
        seconds = time.monotonic() - self._start
        for data in self._child.remaining_output():
            self._output.add(data)
        self._classify(self._child.start_status())
        if not all_ended:
            self._detail += "; some of its processes are stuck in the kernel"
        self._output.save(self._plan["log"])
        cpu_seconds, peak = self._child.usage()
        self._child.remove()
        return {
            "ending": self._ending,
            "exit_code": self._child.code,
            "seconds": seconds,
            "cpu_seconds": cpu_seconds,
            "peak_mb": max(peak, self._peak) / (1 << 20),
            "output_bytes": self._output.total,
            "detail": self._detail,
        }

    def _classify(self, started: bytes) -> None:
        """Find the cause of an exit; limits that the watchdog saw itself are already named."""
        if self._ending != "exited":
            return
        code = self._child.code
        if not started.startswith(b"S"):
            reason = started[1:].decode(errors="replace") or self._last_line()
            self._ending, self._detail = "not_started", reason or f"the sandbox ended with code {code}"
        elif self._killed_for_memory() or (code != 0 and self._ran_out_of_memory(code)):
            self._out_of_memory()
        elif workdir.used_bytes(self._plan["work"], [], self._limits["disk"]) > self._limits["disk"]:
            self._disk_full()
        elif code != 0 and not self._detail:
            self._detail = self._last_line()

    def _ran_out_of_memory(self, code: "int | None") -> bool:
        if code == 128 + signal.SIGKILL and _machine_oom_kills() > self._machine_kills:
            return True
        return any(word in self._output.end(2000) for word in _MEMORY_ERRORS)

    def _killed_for_memory(self) -> bool:
        return self._child.group is not None and self._child.group.oom_kills() > 0

    def _check(self) -> None:
        time_now = time.monotonic()
        if self._ending:
            return
        if time_now - self._start >= self._limits["seconds"]:
            self._over("timeout", f"stopped after {self._limits['seconds']:g} s")
        elif os.getppid() != self._parent:
            # a fork of the runner may hold our standard input open although the runner is dead
            self._over("interrupted", "the runner died")
        elif time_now >= self._next_tick:
            self._next_tick = time_now + TICK
            self._check_processes()
            if time_now >= self._next_disk and not self._ending:
                self._check_disk(time_now)

    def _check_processes(self) -> None:
        if self._killed_for_memory():
            return self._out_of_memory()
        if self._child.group:
            return None
        ours = self._child.processes()
        used = sum(process.rss_bytes for process in ours)
        if used > self._limits["memory"]:
            used = tree.proportional_bytes(ours)
        self._peak = max(self._peak, used)
        if used > self._limits["memory"]:
            self._out_of_memory()
        elif sum(process.threads for process in ours) > self._limits["processes"] + self._plan["relays"] + _SPARE:
            self._over("exited", f"killed: more than {self._limits['processes']} processes and threads")
        return None

    def _check_disk(self, start: float) -> None:
        pids = [process.pid for process in self._child.processes()]
        work = self._plan["work"]
        if workdir.used_bytes(work, pids, self._limits["disk"]) > self._limits["disk"]:
            self._disk_full()
        elif workdir.free_bytes(work) < self._limits["free"]:
            self._over("disk_full", f"the disk of work/ has less than {self._limits['free'] >> 20} MiB left")
        end = time.monotonic()
        self._next_disk = end + max(DISK_TICK, _SHARE * (end - start))

    def _signals(self) -> None:
        numbers = set(os.read(self._wake, 4096))
        if numbers & {signal.SIGTERM, signal.SIGHUP}:
            self._over("interrupted", "the supervisor was told to stop")
        self._check_end()

    def _check_end(self) -> None:
        if self._child.has_ended():
            self._over("exited", "")

    def _read(self) -> "bytes | None":
        data = self._child.read()
        self._output.add(data or b"")
        return data

    def _over(self, ending: str, detail: str) -> None:
        if not self._ending:
            self._ending, self._detail = ending, detail

    def _out_of_memory(self) -> None:
        self._ending, self._detail = "out_of_memory", f"used more than {self._limits['memory'] >> 20} MiB of memory"

    def _disk_full(self) -> None:
        self._ending, self._detail = "disk_full", f"work/ took more than {self._limits['disk'] >> 20} MiB"

    def _last_line(self) -> str:
        lines = self._output.end(2000).strip().splitlines()
        return lines[-1][:300] if lines else ""


def _machine_oom_kills() -> int:
    try:
        with open("/proc/vmstat") as file:
            counts = dict(line.split() for line in file)
    except OSError:
        return 0
    return int(counts.get("oom_kill", 0))
