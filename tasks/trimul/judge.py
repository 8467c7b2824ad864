"""The judge: it makes inputs, compares outputs with its own result, and owns the clock.

The submission runs in another process.
"""

from __future__ import annotations

import contextlib
import math
import time
from dataclasses import dataclass, field
from statistics import fmean, median, stdev
from typing import Any, Protocol

from arena import FileArena, Layout, layout
from cases import Case
from formula import Fields, make_input, mismatch, trimul, weights_of

START, ANSWER = 120.0, 90.0  # seconds: until torch, Triton and the submission are loaded; for one run of a kernel
# The competition's rule for how often a kernel is timed: until the mean is known to .1%, or one of these is reached.
REPEATS, KERNEL_SECONDS, WALL_SECONDS, PRECISION = 100, 30.0, 120.0, 1e-3
MARGIN = 60.0  # microseconds that the clock outside may be off against what an honest process needs around its kernel
_FIRST_USED = "norm.weight"  # what every output depends on from the first step
_FLUSHED = 256 << 20  # bytes written to empty the L2 cache, several times its size


class Program(Protocol):
    """The program that runs the submission: a process in the sandbox, or one of our own kernels (benchmarks)."""

    work: Any

    def ask(self, message: dict[str, Any], seconds: float) -> dict[str, Any]:
        """Send a message and return the answer."""
        ...

    def tell(self, message: dict[str, Any]) -> None:
        """Send a message."""
        ...

    def hear(self, seconds: float) -> dict[str, Any]:
        """Return the next answer."""
        ...


class RefusedError(Exception):
    """The submission failed in a way that it reported itself, or gave no valid answer."""


@dataclass(frozen=True, slots=True)
class Run:
    """One run of a kernel.

    `fault`: the fault of its output. `wall` and `own` in microseconds: by our clock from the question to the answer,
    and by the CUDA events of the process that ran it. `work`: as it counted.
    """

    fault: str
    wall: float
    own: float
    work: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Timing:
    """The time of a kernel in microseconds: mean and standard error over `repeats`.

    `believed`: by events that agree with our clock, else by our clock alone.
    """

    fault: str
    mean: float
    error: float
    repeats: int
    believed: bool


class Judge:
    """A judge of one program, asked about one case after the other.

    `cases`: those that will come; the shared block is as large as the largest. `count`: True where the program's own
    counts are trusted (see `dialect`).
    """

    def __init__(self, program: Program, device: str, cases: list[Case], *, count: bool = False) -> None:
        self._program, self._device, self._count = program, device, count
        self._size = max(_placed(case)[1] for case in cases)
        self._arena = _arena(device, program, self._size)
        self._offered = False
        _taken(program.ask({"device": device, "count": count}, START))

    def close(self) -> None:
        """Close the shared block."""
        self._arena.close()

    def run(self, case: Case, seed: int, *, flush: bool = False) -> Run:
        """Run the kernel once, on fresh data.

        The block holds all data before the clock starts, and the clock stops when the output was read after the program
        said that it is done; then the output is copied.
        """
        data = make_input(case, seed, self._device)
        placed = self._map(case)
        self._arena.put(placed, _in_order(data))
        if flush:  # the inputs, too, have just been written
            _flush(self._device)
        start = time.perf_counter_ns()
        answer = self._program.ask({"do": "run"}, ANSWER)
        self._arena.look()
        wall = (time.perf_counter_ns() - start) / 1e3
        output = self._arena.take(placed)
        _taken(answer)
        fault = "the output changed after it was said to be done" if output is None else mismatch(output, trimul(data))
        work = _whole(answer.get("work")) if self._count else {}
        return Run(fault, wall, _number(answer.get("us")), work)

    def time(self, case: Case, seed: int, slack: float, *, flush: bool = False) -> Timing:
        """Time the kernel as the competition's leaderboard does: fresh data for every repeat, every output checked.

        `slack`: what our clock shows beyond the kernel for an honest program (see `slack`).
        """
        warm = self.run(case, seed)
        runs: list[Run] = []
        end = time.monotonic() + WALL_SECONDS
        while not warm.fault and len(runs) < REPEATS and not (runs and runs[-1].fault):
            runs.append(self.run(case, seed + 13 * (len(runs) + 1), flush=flush))
            if len(runs) > 2 and (_settled([run.own for run in runs]) or time.monotonic() > end):
                break
        fault = warm.fault or next((run.fault for run in runs if run.fault), "")
        if fault:
            return Timing(fault, math.inf, 0.0, len(runs), believed=False)
        return summed_up(runs, slack)

    def _map(self, case: Case) -> Layout:
        placed, _ = _placed(case)
        self._program.tell(
            {
                "do": "map",
                "fields": placed,
                "bytes": self._size,
                "config": {"hidden_dim": case.hidden, "dim": case.dim},
            }
        )
        if not self._offered:
            with contextlib.suppress(OSError):  # who does not come for it answers why, or not at all
                self._arena.offer(START)
            self._offered = True
        _taken(self._program.hear(ANSWER))
        return placed


def _in_order(data: Fields) -> Fields:
    """Order the data as it is written: first the fields that are useless without the rest."""
    return {name: value for name, value in data.items() if name != _FIRST_USED} | {_FIRST_USED: data[_FIRST_USED]}


def summed_up(runs: list[Run], slack: float) -> Timing:
    """Summarise runs; a program's own times are trusted where our clock agrees.

    Over the repeats our clock may show no more than `slack` and the margin beyond them. Timers that were patched, work
    that is left for later and then waited for, and outputs that are copied from elsewhere show up as the difference;
    then our clock's times count, all of it.
    """
    beyond = median(run.wall - run.own for run in runs)
    believed = min(run.own for run in runs) > 0 and -MARGIN < beyond <= slack + MARGIN
    times = [run.own if believed else run.wall for run in runs]
    error = stdev(times) / math.sqrt(len(times)) if len(times) > 1 else 0.0
    return Timing("", fmean(times), error, len(times), believed)


def slack(runs: list[Run]) -> float:
    """Return what our clock shows beyond an honest kernel: the way to the program and back, the output's copy."""
    return median(run.wall - run.own for run in runs)


def geometric_mean(values: list[float]) -> float:
    """Return the geometric mean of positive values."""
    return math.exp(fmean(math.log(value) for value in values))


def _settled(times: list[float]) -> bool:
    mean = fmean(times)
    return stdev(times) / math.sqrt(len(times)) < PRECISION * mean or 1e-6 * sum(times) > KERNEL_SECONDS


def _placed(case: Case) -> tuple[Layout, int]:
    square = (case.batch, case.n, case.n)
    fields: dict[str, tuple[str, tuple[int, ...]]] = {
        "input": ("float32", (*square, case.dim)),
        "mask": ("int64" if case.masked else "float32", square),
        "output": ("float32", (*square, case.dim)),
    }
    return layout(fields | {name: ("float32", shape) for name, (shape, _) in weights_of(case).items()})


def _arena(device: str, program: Program, size: int) -> Any:
    if device == "cpu":
        return FileArena(program.work, size)
    from cuda_arena import CudaArena

    return CudaArena(program.work, size)


def _taken(answer: dict[str, Any]) -> None:
    if "error" in answer:
        raise RefusedError(str(answer["error"])[:300])


def _number(value: Any) -> float:
    """Return the number as it was reported; 0 for anything but a positive finite number."""
    good = isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < 1e12
    return float(value) if good else 0.0


def _whole(work: Any) -> dict[str, int]:
    names = ("operations", "moved", "half", "tf32", "plain")
    if not isinstance(work, dict) or not all(
        isinstance(work.get(name), int) and 0 <= work[name] < 1e15 for name in names
    ):
        return {}
    return {name: int(work[name]) for name in names}


def _flush(device: str) -> None:
    import torch

    if device == "cuda":
        torch.empty(_FLUSHED, dtype=torch.int8, device=device).zero_()
        torch.cuda.synchronize()
