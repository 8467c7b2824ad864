"""Run one command to its end and watch how much memory it takes."""

import contextlib
import os
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

SAMPLE_SECONDS = 0.02
LONGEST_SECONDS = 900
TOGETHER = "all own processes together"

Roles = Callable[
    [int], Sequence[tuple[str, int]]
]  # process id of a command -> (what it is, process id) of its processes


@dataclass(frozen=True, slots=True)
class Watched:
    """`began` in seconds since the epoch, `peaks` in MB by what a process is, and of all together."""

    began: float
    seconds: float
    peaks: dict[str, float]


def watch(
    command: Sequence[str],
    cwd: Path,
    env: Mapping[str, str],
    log: Path,
    roles: Roles | None = None,
) -> Watched:
    """Run `command`, its output in `log`. With `roles` the peak resident memory of those processes is sampled.

    Raises RuntimeError on a failed command or after 15 minutes.
    """
    peaks: dict[str, float] = {}
    with log.open("wb") as output:
        began, start = time.time(), time.perf_counter()
        process = subprocess.Popen(
            command, cwd=cwd, env=dict(env), stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
        )
        try:
            while roles is not None and process.poll() is None and time.perf_counter() - start < LONGEST_SECONDS:
                _sample(roles(process.pid), peaks)
                time.sleep(SAMPLE_SECONDS)
            code = process.wait(timeout=LONGEST_SECONDS)
        except subprocess.TimeoutExpired:
            raise RuntimeError(f"still running after {LONGEST_SECONDS} s: {' '.join(command)}") from None
        finally:
            process.kill()
        seconds = time.perf_counter() - start
    if code != 0:
        raise RuntimeError(f"exit code {code} of {' '.join(command)}\n{_end_of(log)}")
    return Watched(began, seconds, peaks)


def _sample(processes: Sequence[tuple[str, int]], peaks: dict[str, float]) -> None:
    resident = [(role, peak_mb(pid)) for role, pid in processes]
    for role, peak in [*resident, (TOGETHER, sum(peak for _, peak in resident))]:
        peaks[role] = max(peaks.get(role, 0.0), peak)


def environment() -> dict[str, str]:
    """The user's own without Python's switches: byte code that may not be kept, say, is compiled at each start."""
    return {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}


def peak_mb(pid: int) -> float:
    """VmHWM of a process, which only grows: a sample misses no earlier peak. 0 when it has ended."""
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace")
    except OSError:
        return 0.0
    kb = next((line.split()[1] for line in status.splitlines() if line.startswith("VmHWM:")), "0")
    return int(kb) * 1024 / 1e6


def children(pid: int) -> list[int]:
    """Direct children, those of every thread; none when the process has ended."""
    pids: list[int] = []
    for listed in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            pids += map(int, listed.read_text(encoding="ascii").split())
    return pids


def command_line(pid: int) -> bytes:
    """Arguments with a zero byte after each; empty when the process has ended."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    return b""


def _end_of(log: Path, longest: int = 2000) -> str:
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - longest))
        return file.read().decode(errors="replace")
