"""Three ways to evaluate candidates in a few slots: `compute.pool`, fed in two ways, and a job each."""

import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from _slots_task import candidate, carry_out

from sia_runner.compute.jobs import JobCompute
from sia_runner.compute.local import Local
from sia_runner.compute.pool import PooledCluster
from sia_runner.compute.protocol import ComputeStep
from sia_runner.compute.slurm import Slurm

Span = tuple[float, float]
Way = Callable[[Path, int, float, int], list[Span]]
_HERE = Path(__file__).resolve().parent


def ways(partition: str | None) -> dict[str, Way]:
    """Map each way's name to a function (folder, candidates, seconds of each, slots) -> when each began and ended.

    `partition` None means processes of this machine.
    """
    return {
        "pool, the next one when one is finished": partial(_by_pool, partition, all_at_once=False),
        "pool, all queued at once": partial(_by_pool, partition, all_at_once=True),
        "submitit, a job for each": partial(_array if partition else _window, partition),
    }


def _by_pool(
    partition: str | None, folder: Path, count: int, seconds: float, slots: int, *, all_at_once: bool
) -> list[Span]:
    """Run each candidate as a step of the driver does, on a thread that waits for it."""
    _set_paths()
    compute: JobCompute = Local(workers=1, jobs=1, pool=slots)
    if partition:
        default = {"partition": partition, "cpus": 1, "memory_gb": 0.2, "minutes": 60}
        compute = Slurm(1, "none", 90, {"default": default}, pool=slots)

    def evaluate(n: int) -> Span:
        key = f"gen_{n}/run"
        step = ComputeStep(key, "run", folder / key, None, lambda _job: None, print, carry_out)
        return compute.call(step, candidate, seconds)

    with ThreadPoolExecutor(count if all_at_once else slots) as threads:
        spans = list(threads.map(evaluate, range(count)))
    if isinstance(compute.cluster, PooledCluster):
        compute.cluster.end()
    return spans


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


def _set_paths() -> str:
    """Let workers and jobs import what candidates need."""
    paths = [str(_HERE), str(_HERE.parent), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    os.environ["PYTHONPATH"] = os.pathsep.join(dict.fromkeys(paths))
    return os.environ["PYTHONPATH"]


def _executor(partition: str | None, folder: Path, slots: int) -> Any:
    import submitit

    paths = _set_paths()
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
