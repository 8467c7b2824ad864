"""The small process that stands over one sandbox. It outlives a runner that is killed -9, long enough to clean up.

Started by `driver` with a plan on standard input, which stays open: its end, or any further byte, means stop. The
result goes to standard output (both as `launch.pack` writes it). Standard library only, and of it what starts fast.

Without a cgroup memory is sampled every `TICK` seconds, so it may overshoot by what can be touched in that time
(about 2 GiB/s per processor: 100 MiB at `cpus: 1`), with RLIMIT_AS as backstop; so may disk use, as `work` is walked
every `DISK_TICK` seconds, less often where walking takes long.
"""

import contextlib
import fcntl
import os
import select
import signal
import time

from sia_runner.sandbox import cgroups, child, launch, workdir

TYPE_CHECKING = False  # typing would cost milliseconds at every start
if TYPE_CHECKING:
    from sia_runner.sandbox.child import Child
    from sia_runner.sandbox.container import Container

# control characters could speak to a terminal
_UNSAFE = dict.fromkeys([*range(9), *range(11, 32), *range(127, 160), 0xFFFD], "?")
_SUBREAPER = 36  # prctl: orphans below us become our children, wherever they forked to
_LOCK_PATIENCE = 60.0  # seconds that the supervisor before us may take to clean up


class BoundedOutput:
    """A bounded copy of a stream: half of `limit` bytes from its start, half from its end."""

    def __init__(self, limit: int) -> None:
        self.total, self._half = 0, max(1, limit // 2)
        self._head, self._tail = bytearray(), bytearray()

    def add(self, data: bytes) -> None:
        """Append bytes."""
        self.total += len(data)
        free = self._half - len(self._head)
        if free > 0:
            self._head += data[:free]
            data = data[free:]
        self._tail += data[-self._half :]
        if len(self._tail) > 2 * self._half:
            del self._tail[: -self._half]

    def text(self) -> str:
        """Return readable text: invalid UTF-8 and control characters become ``?``, line ends newlines."""
        tail = self._tail[-self._half :]
        left_out = self.total - len(self._head) - len(tail)
        if not left_out:
            return _clean(self._head + tail)
        return f"{_clean(self._head)}\n[... {left_out} bytes left out ...]\n{_clean(tail)}"

    def end(self, size: int) -> str:
        """Return the last `size` bytes or so as text."""
        return _clean((self._head + self._tail)[-size:])

    def save(self, path: str) -> None:
        """Write the text to `path`, atomically."""
        temporary = f"{path}.partial"
        with open(temporary, "w", encoding="utf-8", newline="\n") as file:
            file.write(self.text())
        os.replace(temporary, path)


def _clean(data: bytes | bytearray) -> str:
    text = data.decode("utf-8", errors="replace").replace("\r\n", "\n").replace("\r", "\n")
    return text.translate(_UNSAFE)


TICK = 0.05
DISK_TICK = 0.2
_SHARE = 5  # a look at the disk may take at most 1/(1 + this) of the time
_SPARE = 4  # processes: bubblewrap's own, and one that is just ending
_MACHINE_KILLS = ("/proc/vmstat", "oom_kill")
_MEMORY_ERRORS = ("MemoryError", "std::bad_alloc", "Cannot allocate memory")


class Watchdog:
    """A watchdog over one sandboxed program."""

    def __init__(self, plan: dict, wake: int, child: "Child | Container") -> None:
        self._plan = plan
        self._limits, self._wake, self._child = plan["limits"], wake, child
        self._output = BoundedOutput(self._limits["output"])
        self._start = time.monotonic()
        self._parent = os.getppid()
        self._machine_kills = cgroups.read_count(*_MACHINE_KILLS)
        self._has_group = child.group is not None
        mib = self._limits["memory"] >> 20
        self._memory_ends = {
            "limit": ("out_of_memory", f"used more than {mib} MiB of memory"),
            "machine": ("machine_out_of_memory", f"killed by the kernel, below its own limit of {mib} MiB"),
        }
        self._disk_full = "disk_full", f"work/ took more than {self._limits['disk'] >> 20} MiB"
        self._ending, self._detail, self._peak = "", "", 0
        self._next_disk, self._next_tick = self._start + DISK_TICK, self._start + TICK

    def watch_until_end(self) -> None:
        """Read output and check limits until the program ends or has to be ended."""
        poll = select.poll()
        for fd in (0, self._wake, self._child.output):
            poll.register(fd, select.POLLIN)
        while not self._ending:
            wait = min(self._next_tick, self._start + self._limits["seconds"]) - time.monotonic()
            for fd, _ in poll.poll(max(0, wait * 1000)):
                if fd == 0:
                    self._over("interrupted", "stopped by the runner")
                    continue
                if fd == self._child.output:
                    data = self._child.read()
                    self._output.add(data or b"")
                    if data == b"":
                        poll.unregister(fd)  # closed by all who could write: the child itself may still live
                elif {signal.SIGTERM, signal.SIGHUP} & set(os.read(self._wake, 4096)):
                    self._over("interrupted", "the supervisor was told to stop")
                if self._child.has_ended():
                    self._over("exited", "")
            if not self._ending:
                self._check()

    def result(self, all_ended: bool) -> dict:
        """Return the result of the run, after everything below us was killed."""
        seconds = time.monotonic() - self._start
        for data in self._child.remaining_output():
            self._output.add(data)
        if self._ending == "exited":  # limits that the watchdog saw itself are already named
            self._find_cause(self._child.start_status())
        if not all_ended:
            self._detail += "; some of its processes are stuck in the kernel"
        self._output.save(self._plan["log"])
        cpu_seconds, peak = self._child.usage()
        self._child.remove()
        use = {"seconds": seconds, "cpu_seconds": cpu_seconds, "peak_mb": max(peak, self._peak) / (1 << 20)}
        end = {"ending": self._ending, "exit_code": self._child.code, "detail": self._detail}
        return {**end, **use, "output_bytes": self._output.total}

    def _find_cause(self, started: bytes) -> None:
        code = self._child.code
        lines = self._output.end(2000).strip().splitlines()
        last_line = lines[-1][:300] if lines else ""
        if not started.startswith(b"S"):
            reason = started[1:].decode(errors="replace") or last_line
            self._ending, self._detail = "not_started", reason or f"the sandbox ended with code {code}"
        elif killer := self._child.memory_killer() or (self._other_memory_killer(code) if code != 0 else ""):
            self._ending, self._detail = self._memory_ends[killer]
        elif workdir.used_bytes(self._plan["work"], [], self._limits["disk"]) > self._limits["disk"]:
            self._ending, self._detail = self._disk_full
        elif code != 0 and not self._detail:
            self._detail = last_line
            output = self._output.end(20_000)  # the cause stands above the traceback of a process that waited
            words, note = self._plan["hint"]
            if any(word in output or (word == "SIGBUS" and code == 128 + signal.SIGBUS) for word in words):
                self._detail += f" ({note})"

    def _other_memory_killer(self, code: "int | None") -> str:
        """Return what ran out where no cgroup tells: the kernel's kill, or the last lines of the output."""
        kills = cgroups.read_count(*_MACHINE_KILLS)
        if code == 128 + signal.SIGKILL and kills > self._machine_kills and not self._has_group:
            peak = max(self._peak, self._child.usage()[1])
            return "limit" if peak > self._limits["memory"] else "machine"
        return "limit" if any(word in self._output.end(2000) for word in _MEMORY_ERRORS) else ""

    def _check(self) -> None:
        time_now = time.monotonic()
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
        if killer := self._child.memory_killer():
            self._ending, self._detail = self._memory_ends[killer]
        if self._child.group:
            return
        ours = self._child.processes()
        used = sum(process.rss_bytes for process in ours)
        if used > self._limits["memory"]:
            used = sum(map(child.proportional_bytes, ours))
        self._peak = max(self._peak, used)
        if used > self._limits["memory"]:
            self._ending, self._detail = self._memory_ends["limit"]
        elif sum(process.threads for process in ours) > self._limits["processes"] + self._plan["relays"] + _SPARE:
            self._over("exited", f"killed: more than {self._limits['processes']} processes and threads")

    def _check_disk(self, start: float) -> None:
        pids = [process.pid for process in self._child.processes()]
        work = self._plan["work"]
        if workdir.used_bytes(work, pids, self._limits["disk"]) > self._limits["disk"]:
            self._ending, self._detail = self._disk_full
        elif workdir.free_bytes(work) < self._limits["free"]:
            self._over("disk_full", f"the disk of work/ has less than {self._limits['free'] >> 20} MiB left")
        end = time.monotonic()
        self._next_disk = end + max(DISK_TICK, _SHARE * (end - start))

    def _over(self, ending: str, detail: str) -> None:
        if not self._ending:
            self._ending, self._detail = ending, detail


def main() -> None:
    """Read a plan, run its sandbox, and write the result."""
    plan = launch.receive(0)
    if plan is None:
        return
    try:
        launch.prctl(_SUBREAPER, 1)
        wake = _catch_signals()
        refusal = _lock(plan["lock"])
        result = {"ending": "not_started", "detail": refusal} if refusal else _run(plan, wake)
    except OSError as error:
        result = {"ending": "not_started", "detail": str(error)}
    with contextlib.suppress(BrokenPipeError):  # the runner has gone
        os.write(1, launch.pack(result))  # far below PIPE_BUF: never partial


def _run(plan: dict, wake: int) -> dict:
    work, uid = plan["work"], plan["launch"]["uid"]
    free = workdir.free_bytes(work)
    if free < plan["limits"]["free"]:
        return {"ending": "not_started", "detail": f"only {free >> 20} MiB are left on the disk of {work}"}
    info = os.stat(work)
    _clear(plan)
    try:
        if plan["tmp"]:
            os.mkdir(plan["tmp"], 0o700)
        if uid is not None:
            workdir.give_to_user(work, uid)
        if plan["copies"]:
            _copy(plan)
        if plan["container"]:
            from sia_runner.sandbox import container

            program = container.Container(plan)
        else:
            program = child.Child(plan)
        try:
            watch = Watchdog(plan, wake, program)
            watch.watch_until_end()
        finally:
            all_ended = program.end()
        return watch.result(all_ended)
    finally:
        workdir.restore_owner(work, None if uid is None else (info.st_uid, info.st_gid))
        _clear(plan)


def _copy(plan: dict) -> None:
    import shutil

    os.mkdir(plan["scratch"], 0o755)
    for source, copy in plan["copies"]:
        shutil.copytree(source, copy)
        for folder, _, names in os.walk(copy):
            os.chmod(folder, 0o755)  # noqa: S103 (so that the harness, a stranger, can read its own copy)
            for name in names:
                os.chmod(f"{folder}/{name}", 0o644)


def _clear(plan: dict) -> None:
    for folder in (plan["tmp"], plan["scratch"]):
        if not folder or not os.path.lexists(folder):
            continue
        try:
            os.rmdir(folder)
        except OSError:  # not empty, or not a folder: rm follows no link and knows no depth at which it gives up
            os.spawnv(os.P_WAIT, "/bin/rm", ["rm", "-rf", "--", folder])


def _catch_signals() -> int:
    """Turn signals into bytes on the returned descriptor; Ctrl-C is the runner's business."""
    reader, writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: None)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    return reader


def _lock(path: str) -> str:
    """Lock the work folder, which two supervisors never share, until this process ends; return why that failed."""
    lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    end = time.monotonic() + _LOCK_PATIENCE
    while True:
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return ""
        if time.monotonic() > end:
            return "another run still works in this work folder"
        if select.select([0], [], [], 0.02)[0]:
            return "stopped by the runner"
