"""Run the short steps of a candidate in lasting worker processes instead of a job each, which costs a second and more.

A worker is a process of this machine (`local`) or a step of one SLURM allocation (`allocation`). A stage leaves its
outcome in a file and holds a lease meanwhile, as in a job of its own: if its worker was lost it may run again, and what
a killed driver left behind is found by the next one.
"""

import threading
import time
import uuid
from collections.abc import Callable
from concurrent.futures import Future, wait
from contextlib import suppress
from pathlib import Path
from queue import Empty, LifoQueue
from typing import Protocol

from sia_runner.compute.jobs import LOST, Cluster, JobState, telling_line
from sia_runner.compute.protocol import ComputeStep
from sia_runner.compute.task import StageJob, read_outcome
from sia_runner.store.files import last_lines
from sia_runner.store.lease import lease_is_held
from sia_runner.store.run_directory import write_text

IDLE = 300.0  # seconds without a step after which all workers end
_ATTEMPTS = 3  # workers that a stage may lose before it is given up
_PREFIX = "worker:"  # of a step's id, where the journal has the id of a job
_POOLED_KINDS = frozenset({"gate", "run", "verify"})  # short, and alike: a worker has the resources of `run`
_LOST_FILE = "workers.err"  # in the folder of a step: why no worker could end it


class WorkerLost(Exception):
    """The end of a worker before its stage, with its last line; `state`: of the place of all workers, if that ended."""

    def __init__(self, log: Path, state: str = "") -> None:
        super().__init__(telling_line(last_lines(log)))
        self.state = state


class Worker(Protocol):
    """A process that runs one stage after another."""

    @property
    def alive(self) -> bool:
        """False when the process ended."""
        ...

    def run(self, task: StageJob) -> None:
        """Run a stage to its end; raise WorkerLost when the process ends before."""

    def end(self) -> None:
        """End the process."""


class _Slot:
    worker: Worker | None = None


class PooledCluster(Cluster):
    """A cluster with `slots` workers in front for steps of some kinds; every other step goes to `cluster`.

    `start` starts a worker whose standard error is a file, or raises WorkerLost. `close`: none is needed for a while.
    """

    def __init__(
        self, cluster: Cluster, slots: int, start: Callable[[Path], Worker], close: Callable[[], None] = lambda: None
    ) -> None:
        self._cluster, self._start, self._close = cluster, start, close
        self._slots = [_Slot() for _ in range(slots)]
        self._free = LifoQueue[_Slot]()  # the last one used is the next: its worker lives
        for slot in self._slots:
            self._free.put(slot)
        self._steps: dict[str, Future[str]] = {}  # id -> the state in which the step ended
        self._adopted: dict[str, Path] = {}  # id of a step of an earlier driver -> its folder
        self._used, self._ended = 0, False
        self._timer = threading.Timer(IDLE, self._rest)

    def submit(self, step: ComputeStep, task: StageJob) -> str:
        """Give a step to the next free worker or to the cluster, and return its id."""
        if step.kind not in _POOLED_KINDS:
            self._rest(self._used)  # where there is room for one job only, idle workers would keep it
            return self._cluster.submit(step, task)
        job = f"{_PREFIX}{uuid.uuid4().hex[:12]}"
        self._steps[job] = future = Future[str]()
        threading.Thread(target=self._carry_out, args=(future, step, task), name=job, daemon=True).start()
        return job

    def attach(self, step: ComputeStep, job: str) -> None:
        """Follow a step of an earlier process, whose worker holds the lease of the step's folder."""
        if job.startswith(_PREFIX):
            self._adopted[job] = step.folder
        else:
            self._cluster.attach(step, job)

    def state(self, job: str) -> JobState | None:
        """Return the state of a worker's stage, or of a job of the cluster."""
        if not job.startswith(_PREFIX):
            return self._cluster.state(job)
        if job in self._adopted:
            return JobState("RUNNING" if lease_is_held(self._adopted[job]) else LOST)
        future = self._steps[job]
        if future.done():
            return JobState(future.result())
        return JobState("RUNNING") if future.running() else JobState("PENDING", "for a slot of compute.pool")

    def forget(self, job: str) -> None:
        """Stop following a worker's stage, or a job of the cluster."""
        if job.startswith(_PREFIX):
            self._steps.pop(job, None)
            self._adopted.pop(job, None)
        else:
            self._cluster.forget(job)

    def cancel(self, job: str) -> None:
        """End a job of the cluster."""
        self._cluster.cancel(job)

    def waiting(self, state: JobState | None, seconds: float) -> str:
        """Explain a job's state as the cluster does."""
        return self._cluster.waiting(state, seconds)

    def log(self, step: ComputeStep, job: str) -> Path:
        """Return the file with the standard error of a step's job, or with the reason why its workers were lost."""
        return step.folder / _LOST_FILE if job.startswith(_PREFIX) else self._cluster.log(step, job)

    def pause(self, job: str, seconds: float) -> None:
        """Sleep, but not longer than until a step of this process ended."""
        future = self._steps.get(job)
        if future is None or future.done():
            time.sleep(seconds)
        else:
            wait([future], seconds)

    def end(self) -> None:
        """End all workers, in the middle of their stages too."""
        self._ended = True
        for slot in self._slots:
            if slot.worker:
                slot.worker.end()
        self._close()

    def _carry_out(self, future: Future[str], step: ComputeStep, task: StageJob) -> None:
        slot = self._free.get()
        try:
            future.set_result(self._run(slot, future, step, task))
        except BaseException as error:  # noqa: BLE001 - it is raised again where the state is read
            future.set_exception(error)
        finally:
            self._used += 1
            self._free.put(slot)
            self._timer.cancel()
            self._timer = threading.Timer(IDLE, self._rest, (self._used,))
            self._timer.daemon = True
            self._timer.start()

    def _run(self, slot: _Slot, future: Future[str], step: ComputeStep, task: StageJob) -> str:
        """Run a stage by as many workers as it takes and return the state in which it ended."""
        folder = step.folder.parents[step.key.count("/")] / "workers"  # beside those of the run's steps
        folder.mkdir(parents=True, exist_ok=True)
        last = ""
        for _ in range(_ATTEMPTS):
            try:
                if slot.worker is None or not slot.worker.alive:
                    slot.worker = self._start(folder / f"{uuid.uuid4().hex[:8]}.err")
                if self._ended:
                    slot.worker.end()
                    return LOST
                if not future.running():
                    future.set_running_or_notify_cancel()
                slot.worker.run(task)
                return "COMPLETED"
            except WorkerLost as lost:
                slot.worker, last = None, str(lost)
                if read_outcome(step.folder) is not None:  # the cluster cut the stage, and its worker left
                    return "COMPLETED"
                if lost.state or self._ended:
                    return lost.state or LOST
        write_text(step.folder / _LOST_FILE, f"{_ATTEMPTS} workers ended in the middle of it; the last said: {last}\n")
        return "FAILED"

    def _rest(self, used: int) -> None:
        """End all workers if none was used since."""
        free = list[_Slot]()
        with suppress(Empty):
            while used == self._used:
                free.append(self._free.get_nowait())
        if len(free) == len(self._slots):
            for slot in free:
                if slot.worker:
                    slot.worker.end()
                slot.worker = None
            self._close()
        for slot in free:
            self._free.put(slot)
