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


@dataclass(frozen=True, slots=True)
class Watched:
    """`began` in seconds since the epoch, `peaks` in MB by the name that `roles` gave."""

    began: float
    seconds: float
    peaks: dict[str, float]


def watch(
    command: Sequence[str],
    cwd: Path,
    env: Mapping[str, str],
    log: Path,
    roles: Callable[[int], Mapping[str, int]] | None = None,
) -> Watched:
    """Run `command`, its output in `log`. With `roles` (process id of the command -> name -> process id) the peak
    resident memory of those processes is sampled. Raises RuntimeError on a failed command or after 15 minutes."""
    peaks: dict[str, float] = {}
    with log.open("wb") as output:
        began, start = time.time(), time.perf_counter()
        process = subprocess.Popen(
            command, cwd=cwd, env=dict(env), stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
        )
        try:
            while roles is not None and process.poll() is None and time.perf_counter() - start < LONGEST_SECONDS:
                for role, pid in roles(process.pid).items():
                    peaks[role] = max(peaks.get(role, 0.0), peak_mb(pid))
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
    found: list[int] = []
    for listed in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            found += map(int, listed.read_text(encoding="ascii").split())
    return found


def command_line(pid: int) -> bytes:
    """Arguments with a zero byte after each; empty when the process has ended."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    return b""


def _end_of(log: Path, longest: int = 2000) -> str:
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - longest))
        return file.read().decode(errors="replace")
