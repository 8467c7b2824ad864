"""One SLURM allocation for all workers of a pool, each a job step that runs one stage after another.

salloc, a child of the driver, holds the allocation; each worker is an srun that reads stages from a pipe. When the
driver is gone, however it went, its pipes end: a worker ends after its stage, the allocation after the last worker.
"""

import math
import os
import pickle
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from sia_runner.compute.jobs import LOST
from sia_runner.compute.pool import WorkerLost
from sia_runner.compute.protocol import JobStopped
from sia_runner.compute.submission import (
    AGAIN,
    PATIENCE,
    QUERY_TIMEOUT,
    SubmissionError,
    environment_outside_jobs,
    run_command,
)
from sia_runner.compute.task import StageJob
from sia_runner.config.components import StageResources

_STEP = "sia:worker"  # the name of a worker's step
_SETTLE = 1.0  # seconds until the controller knows why a step ended
_SIGN_OF_LIFE = pickle.dumps(None)
_HEARTBEAT, _SILENCE = 10.0, 60  # seconds between two signs of life; without any, after which an idle worker ends
_EARLY = 60.0  # seconds that SLURM may warn before it was asked to
_HOLD = f"""
echo $SLURM_JOB_ID ${{SLURM_WORKING_CLUSTER%%:*}}
cat >/dev/null
while squeue --noheader --steps --jobs=$SLURM_JOB_ID --format=%j | grep -qx {_STEP}; do sleep 2; done
"""
_BOOT = "from sia_runner.compute.allocation import serve; serve()"
MEMORY_OPTIONS = frozenset({"mem", "mem-per-cpu", "mem-per-gpu"})  # of which sbatch takes one
NAMED = ("partition", "account", "qos", "constraint", "nodelist", "exclude")  # options of sbatch and of salloc


class Allocation:
    """Workers of a pool on SLURM: steps of one allocation, and of the next when that one ended."""

    def __init__(self, resources: StageResources, slots: int, warning: int, setup: list[str]) -> None:
        """Plan `slots` steps; `warning`: seconds before the time limit; `setup`: shell lines before Python."""
        self.options = _allocation_options(resources, slots, warning)  # salloc's
        self._step_options, self._setup = _step_options(resources), [*setup, *(resources.setup or [])]
        seconds = 60.0 * (resources.minutes or 1)
        self._lasts = max(seconds / 2, seconds - warning - _EARLY)  # afterwards no worker is started in it
        self._lock = threading.RLock()
        self._holder: _PipedCommand | None = None
        self._workers: list[StepWorker] = []  # of the present allocation
        self._job, self._until = "", 0.0
        self._cluster: list[str] = []  # options that name the allocation's, where a federation chose another one

    def start(self, log: Path) -> "StepWorker":
        """Start a worker, in a new allocation if there is none that lasts."""
        with self._lock:
            if self._holder is None or not self._holder.alive or time.monotonic() > self._until:
                self._allocate(log.with_name("allocation.err"))
            job, cluster = self._job, self._cluster
        step = ["srun", *cluster, f"--jobid={job}", f"--job-name={_STEP}", "--exact", *self._step_options]
        program = "\n".join([*self._setup, f"exec {shlex.join([sys.executable, '-c', _BOOT])}"])
        worker = StepWorker([*step, "bash", "-c", program], log, lambda: self._end_state(job, cluster))
        with self._lock:
            if job == self._job:
                self._workers.append(worker)
            else:
                worker.retire()
        return worker

    def close(self) -> None:
        """Let the allocation end with the last stage that is under way: an idle worker would keep its place."""
        with self._lock:
            for worker in self._workers:
                worker.retire()
            if self._holder:
                self._holder.end()
            self._holder, self._workers, self._job = None, [], ""

    def _end_state(self, job: str, cluster: list[str]) -> str:
        """Return CANCELLED if somebody cancelled an allocation, LOST if it ended otherwise, empty while it runs."""
        state, until = "", time.monotonic() + QUERY_TIMEOUT
        while state in ("", "COMPLETING") and time.monotonic() < until:  # which hides how it ended
            time.sleep(_SETTLE)
            answer = run_command(["squeue", *cluster, "--noheader", "--states=all", "--format=%T", f"--jobs={job}"])
            if answer is None or (answer.returncode and "Invalid job id" not in answer.stderr):
                return ""
            state = answer.stdout.strip() or LOST
        if state == "RUNNING":
            return ""
        with self._lock:
            if job == self._job:
                self.close()
        return state if state == "CANCELLED" else LOST

    def _allocate(self, log: Path) -> None:
        self.close()
        until = time.monotonic() + PATIENCE
        while True:
            self._holder = _PipedCommand(["salloc", *self.options, "--kill-command=TERM", "sh", "-c", _HOLD], log)
            if line := self._holder.line():
                self._job, *names = line.split()
                self._cluster, self._until = [f"--clusters={name}" for name in names], time.monotonic() + self._lasts
                return
            refused = SubmissionError(log.read_text(encoding="utf-8", errors="replace"))
            if not refused.transient or time.monotonic() > until:
                advice = refused.advice("compute.resources.run")
                raise JobStopped(f"salloc refused the allocation for compute.pool: {refused}{advice}")
            time.sleep(AGAIN)


def _step_options(resources: StageResources) -> list[str]:
    cpus = resources.cpus or 1
    options = ["--ntasks=1", "--nodes=1", f"--cpus-per-task={cpus}"]
    if resources.memory_gb is not None and not MEMORY_OPTIONS & (resources.extra or {}).keys():
        per_cpu = math.ceil(resources.memory_gb * 1024 / cpus)
        options.append(f"--mem-per-cpu={per_cpu}M" if per_cpu else "--mem=0")
    return [*options, f"--gpus-per-task={resources.gpus}"] if resources.gpus else options


def _allocation_options(resources: StageResources, slots: int, warning: int) -> list[str]:
    named = {name: getattr(resources, name) for name in (*NAMED, "reservation")} | (resources.extra or {})
    return [
        f"--ntasks={slots}",
        *_step_options(resources)[2:],
        "--job-name=sia:pool",
        f"--time={resources.minutes}",
        f"--signal=USR2@{warning}",
        *(f"--{key}" if value is True else f"--{key}={value}" for key, value in named.items() if value is not None),
    ]


class _PipedCommand:
    """A command of SLURM at the other end of two pipes; a Ctrl-C, which is meant for the driver, does not reach it."""

    def __init__(self, command: list[str], log: Path) -> None:
        self._log = log
        pipe = subprocess.PIPE
        with log.open("wb") as errors:
            self._process = subprocess.Popen(
                command, stdin=pipe, stdout=pipe, stderr=errors, env=environment_outside_jobs(), start_new_session=True
            )
        self._stdin: Any = self._process.stdin
        self._stdout: Any = self._process.stdout
        threading.Thread(target=self._beat, daemon=True).start()

    @property
    def alive(self) -> bool:
        return self._process.returncode is None

    def send(self, data: bytes) -> None:
        with suppress(OSError, ValueError):  # it ended, or was told to: it will not answer
            self._stdin.write(data)
            self._stdin.flush()

    def line(self) -> str:
        """Wait for a line; return it, or an empty one at the end of the process."""
        text = self._stdout.readline().decode().strip()
        if not text:
            self._process.wait()
        return text

    def end(self) -> None:
        with suppress(OSError):
            self._stdin.close()

    def _beat(self) -> None:
        while self._process.returncode is None:
            self.send(_SIGN_OF_LIFE)
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(_HEARTBEAT)


class StepWorker(_PipedCommand):
    """The driver's end of a worker: a job step, reached by the pipes of its srun."""

    def __init__(self, command: list[str], log: Path, place: Callable[[], str]) -> None:
        super().__init__(command, log)
        self._place = place
        self._lock, self._busy, self._retired = threading.Lock(), False, False
        self._wait_for_answer()

    @property
    def alive(self) -> bool:
        """False once the process ended or was told to."""
        return super().alive and not self._retired

    def run(self, task: StageJob) -> None:
        """Run one stage and wait for its end."""
        with self._lock:
            self._busy = True
        self.send(pickle.dumps(task))
        self._wait_for_answer()
        with self._lock:
            self._busy = False
            if self._retired:
                self.end()

    def retire(self) -> None:
        """End the worker, after the stage that is under way."""
        with self._lock:
            self._retired = True
            if not self._busy:
                self.end()

    def _wait_for_answer(self) -> None:
        if not self.line():
            raise WorkerLost(self._log, self._place())


def serve() -> None:
    """Run the stages that stdin brings, in the job step, until it ends; a line says when the next may come."""
    stages, ready = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "w")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)  # stages and their sandboxes get neither pipe
    os.dup2(2, 1)
    while True:
        print("ready", file=ready, flush=True)
        task = None
        while task is None:
            signal.alarm(_SILENCE)  # of an srun that was killed, the step does not learn: its pipe stays open
            try:
                task = pickle.load(stages)  # noqa: S301 - the driver's pipe
            except EOFError:
                return
        signal.alarm(0)
        task()
