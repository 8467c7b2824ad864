"""Three ways to evaluate candidates in a few slots: the pool, fed as its slots get free or at once, and a job each."""

import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from _slots_task import candidate

from sia_runner.compute.pool import SubmititWorkers, WorkerPool
from sia_runner.compute.slurm import QueueMonitor

Span = tuple[float, float]
Way = Callable[[Path, int, float, int], list[Span]]
_HERE = Path(__file__).resolve().parent


def ways(partition: str | None) -> dict[str, Way]:
    """Map each way's name to a function (folder, candidates, seconds of each, slots) -> when each began and ended.

    `partition` None means processes of this machine.
    """
    return {
        "pool, the next one when one is finished": partial(_one_out_one_in, partition),
        "pool, all queued at once": partial(_all_at_once, partition),
        "submitit, a job for each": partial(_array if partition else _window, partition),
    }


def _one_out_one_in(partition: str | None, folder: Path, count: int, seconds: float, slots: int) -> list[Span]:
    with _pool(partition, folder, slots) as pool:
        tickets, spans = iter(range(count)), list[Span]()
        for _, n in zip(range(slots), tickets, strict=False):
            pool.submit(f"{n:06}", partial(candidate, seconds))
        while ready := pool.wait_any():
            spans += _collect(pool, ready)
            for _, n in zip(ready, tickets, strict=False):
                pool.submit(f"{n:06}", partial(candidate, seconds))
        return spans


def _all_at_once(partition: str | None, folder: Path, count: int, seconds: float, slots: int) -> list[Span]:
    with _pool(partition, folder, slots) as pool:
        for n in range(count):
            pool.submit(f"{n:06}", partial(candidate, seconds))
        spans = list[Span]()
        while ready := pool.wait_any():
            spans += _collect(pool, ready)
        return spans


def _collect(pool: WorkerPool, ready: list[str]) -> list[Span]:
    spans = [pool.result(ticket) for ticket in ready]
    for ticket in ready:
        pool.forget(ticket)
    return spans


def _pool(partition: str | None, folder: Path, slots: int) -> WorkerPool:
    cluster = QueueMonitor() if partition else None
    return WorkerPool(folder / "pool", SubmititWorkers(_executor(partition, folder / "jobs", slots), cluster), slots)


def _array(partition: str | None, folder: Path, count: int, seconds: float, slots: int) -> list[Span]:
    """Use submitit in the obvious way: one array with a limit, and `result()` of each job."""
    jobs = _executor(partition, folder, slots).map_array(candidate, [seconds] * count)
    return [job.result() for job in jobs]


def _window(partition: str | None, folder: Path, count: int, seconds: float, slots: int) -> list[Span]:
    """submitit's local executor starts a whole array at once: here the limit is kept by asking each job."""
    executor, waiting, running, spans = _executor(partition, folder, slots), count, list[Any](), list[Span]()
    while waiting or running:
        over = [job for job in running if job.done()]
        spans += [job.result() for job in over]
        running = [job for job in running if job not in over]
        while waiting and len(running) < slots:
            running.append(executor.submit(candidate, seconds))
            waiting -= 1
        time.sleep(0.05)
    return spans


def _executor(partition: str | None, folder: Path, slots: int) -> Any:
    import submitit

    paths = os.pathsep.join([str(_HERE), str(_HERE.parent), os.environ.get("PYTHONPATH", "")])
    os.environ["PYTHONPATH"] = paths
    if partition is None:
        executor: Any = submitit.LocalExecutor(folder)
        executor.update_parameters(timeout_min=60)
        return executor
    executor = submitit.SlurmExecutor(folder)
    executor.update_parameters(
        partition=partition,
        time=60,
        cpus_per_task=1,
        mem="200M",
        array_parallelism=slots,
        setup=[f"export PYTHONPATH={paths}"],
    )
    return executor
