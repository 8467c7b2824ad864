"""Run stages as jobs on a SLURM cluster, through submitit.

One squeue follows all jobs of this process; no answer is no news. A job that it lists no more is over: sacct reports
how it ended where the cluster has accounting, and elsewhere it is lost, unless it left an outcome.
"""

import os
import shlex
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from sia_runner.compute import allocation
from sia_runner.compute.jobs import LOST, Cluster, JobCompute, JobState, RepeatedNews
from sia_runner.compute.local import import_submitit
from sia_runner.compute.pool import PooledCluster
from sia_runner.compute.protocol import ComputeError, ComputeStep, JobStopped
from sia_runner.compute.submission import (
    AGAIN,
    PATIENCE,
    SubmissionError,
    environment_outside_jobs,
    run_command,
    submit_jobs,
)
from sia_runner.compute.task import StageJob
from sia_runner.config.components import ResourcesByStage
from sia_runner.system import cache_dir

_SOONEST, _LATEST = 1.0, 10.0  # seconds between two queries: while a job is young, and later on
_YOUNG = 30.0  # a job's age in seconds by which the pause grows by one
_PLACES = 60.0  # seconds between two looks at all that waits, which may be many: positions change slowly


class QueueMonitor:
    """A thread that queries squeue while jobs are followed: the first `state`, which never blocks, starts it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._since: dict[str, float] = {}  # job -> when it was first asked for
        self._known: dict[str, JobState] = {}
        self._thread: threading.Thread | None = None
        self._answered = 0.0
        self._places: dict[str, str] = {}  # job -> its place among those that wait
        self._placed = 0.0

    def state(self, job: str) -> JobState | None:
        """Return the last reported state of a job, and follow it from now on."""
        with self._lock:
            self._since.setdefault(job, time.monotonic())
            if self._thread is None:
                self._answered = time.monotonic()
                self._thread = threading.Thread(target=self._poll, name="squeue", daemon=True)
                self._thread.start()
            return self._known.get(job)

    def silence(self) -> float:
        """Return the seconds since the last answer, while jobs are followed."""
        with self._lock:
            return time.monotonic() - self._answered if self._thread else 0.0

    def forget(self, job: str) -> None:
        """Stop following a job."""
        with self._lock:
            self._since.pop(job, None)
            self._known.pop(job, None)

    def _poll(self) -> None:
        while True:
            with self._lock:
                jobs = dict(self._since)
                if not jobs:
                    self._thread = None
                    return
            states = self._with_places(self._ask(jobs), min(jobs.values()))
            with self._lock:
                self._answered = time.monotonic() if states else self._answered
                self._known |= {job: state for job, state in states.items() if job in self._since}
            youngest = time.monotonic() - max(jobs.values())
            time.sleep(min(_LATEST, max(_SOONEST, youngest / _YOUNG)))

    def _ask(self, jobs: Collection[str]) -> dict[str, JobState]:
        """Query the states of jobs, of finished ones where there is accounting; empty without an answer."""
        states = self._squeue(sorted(jobs))
        # a job of a federation is REVOKED on all its clusters but the one that runs it, which may not have answered
        missing = [] if states is None else [job for job in jobs if job not in states or states[job].name == "REVOKED"]
        if states is None or not missing:
            return states or {}
        options = ["--federation", "-X", "--noheader", "--parsable2", "--format=JobID,State"]
        answer = run_command(["sacct", *options, f"--jobs={','.join(missing)}"])
        past = {} if answer is None or answer.returncode else _parse_states(answer.stdout, missing)
        return states | {job: past.get(job, states.get(job, JobState(LOST))) for job in missing}

    def _with_places(self, states: dict[str, JobState], oldest: float) -> dict[str, JobState]:
        """Add the queue positions of pending jobs, once the oldest has waited for a while."""
        queues = {state.queue for state in states.values() if state.name == "PENDING" and state.queue}
        time_now = time.monotonic()
        if queues and time_now - max(oldest, self._placed) >= _PLACES * 0.9:
            self._placed, self._places = time_now, queue_positions(sorted(queues))
        return {job: replace(state, position=self._places.get(job, "")) for job, state in states.items()}

    def _squeue(self, jobs: Sequence[str]) -> dict[str, JobState] | None:
        # asked for one that it does not know, squeue fails; asked for two, it does not
        ids = ",".join([*jobs, jobs[0]])
        options = ["--sibling", "--noheader", "--array", "--all", "--states=all", "--format=%i|%T|%r|%S|%P"]
        answer = run_command(["squeue", *options, f"--jobs={ids}"])
        if answer is None or (answer.returncode and "Invalid job id" not in answer.stderr):
            return None
        return _parse_states(answer.stdout, jobs)


def queue_positions(queues: Sequence[str]) -> dict[str, str]:
    """Map each pending job to its place in its partition, by priority, as ``3 of 17``."""
    waiting = ["squeue", "--noheader", "--all", "--states=PENDING", "--sort=-p,i", "--format=%i"]
    positions: dict[str, str] = {}
    for queue in queues:
        answer = run_command([*waiting, f"--partition={queue}"])
        jobs = answer.stdout.split() if answer and not answer.returncode else []
        positions |= {job: f"{at} of {len(jobs)}" for at, job in enumerate(jobs, 1)}
    return positions


def _parse_states(text: str, jobs: Collection[str]) -> dict[str, JobState]:
    """Parse lines of `id|STATE|reason|start|partition`, or `id|STATE`; sacct writes ``CANCELLED by 0``."""
    states: dict[str, JobState] = {}
    for line in text.splitlines():
        job, *fields = line.split("|")
        if fields and job in jobs and not (fields[0] == "REVOKED" and job in states):
            name, reason, start, queue = (*fields, "", "", "")[:4]
            states[job] = JobState(name.partition(" ")[0], reason, "" if start == "N/A" else start, queue)
    return states


def _exports() -> list[str]:
    """Return shell lines with the driver's paths, and no keys, for clusters where sbatch passes no environment on."""
    root = Path(__file__).resolve().parents[2]
    paths = [] if root.name == "site-packages" else [str(root)]
    paths += filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))
    path = os.pathsep.join(dict.fromkeys(paths))
    return [f"export PYTHONPATH={shlex.quote(path)}", f"export SIA_CACHE={shlex.quote(str(cache_dir()))}"]


_HELD = ("JobHeldUser", "JobHeldAdmin")
_NEVER = ("BadConstraints", "PartitionNodeLimit", "PartitionTimeLimit", "DependencyNeverSatisfied", "AccountNotAllowed",
          "QOSNotAllowed", "InvalidAccount", "InvalidQOS", "AssocMaxJobsLimit", "ReqNodeNotAvail", "PartitionDown",
          "PartitionInactive")  # fmt: skip
_LONG = 60.0  # seconds in the queue, or without an answer, after which the user is told


class Slurm(JobCompute):
    """The `slurm` compute: each stage is a job."""

    def __init__(
        self, workers: int, site: str, warn_seconds: int, resources: dict[str, Any], pool: int | None = None
    ) -> None:
        """Take the resources of each kind of stage, which the profile of `site` has filled in."""
        self._resources = ResourcesByStage.model_validate(resources)
        self._warning = warn_seconds
        self._pool: allocation.Allocation | None = None
        cluster: Cluster = _Slurm(self.parameters)
        if pool:
            self._pool = allocation.Allocation(self._resources.of("run"), pool, self._warning_of("run"), _exports())
            cluster = PooledCluster(cluster, pool, self._pool.start, self._pool.close)
        super().__init__(workers, cluster)

    def check(self, kinds: Iterable[str]) -> None:
        """Raise ComputeError where sbatch is missing or would refuse a job of one of these kinds."""
        import_submitit()
        if not shutil.which("sbatch"):
            raise ComputeError("compute=slurm needs sbatch, which is not here: is this a login node of the cluster?")
        from submitit.slurm.slurm import _make_sbatch_string

        tried: list[dict[str, Any]] = []
        for kind in kinds:
            parameters = self.parameters(kind)
            if not self._in_driver(kind) and parameters not in tried:
                script = _make_sbatch_string(command="true", folder="/tmp", **parameters)  # noqa: S108 - never written
                _test_submission(f"compute.resources.{kind}", [], script)
                tried.append(parameters)
        if self._pool:
            _test_submission("compute.pool", self._pool.options, "#!/bin/sh\ntrue\n")

    def parameters(self, kind: str) -> dict[str, Any]:
        """Return the parameters of submitit's slurm executor for jobs of `kind`."""
        resources = self._resources.of(kind)
        extra = {"reservation": resources.reservation} if resources.reservation else {}
        extra |= resources.extra or {}
        memory = None if allocation.MEMORY_OPTIONS & extra.keys() else resources.memory_gb
        several = {"nodes": resources.nodes, "ntasks_per_node": 1} if (resources.nodes or 1) > 1 else {}
        first_node = ["--nodes=1", "--ntasks=1"] if several else []  # the stage, which starts steps on all nodes
        options = (
            several
            | {name: getattr(resources, name) for name in allocation.NAMED}
            | {
                "cpus_per_task": resources.cpus,
                "mem": None if memory is None else f"{int(memory * 1024)}M" if memory else "0",  # 0: all of the node
                "gres": f"gpu:{resources.gpus}" if resources.gpus else None,
                "time": resources.minutes,
                # a step does not inherit the processors of its job, nor its variables after `sbatch --export=NONE`
                "srun_args": [
                    "--export=ALL",
                    *([f"--cpus-per-task={resources.cpus}"] if resources.cpus else []),
                    *first_node,
                ],
            }
        )
        return {
            **{key: value for key, value in options.items() if value is not None},
            "wckey": None,
            "signal_delay_s": self._warning_of(kind),
            "setup": [*_exports(), *(resources.setup or [])],
            "additional_parameters": {"requeue": True, **extra},  # after a preemption too
        }

    def _warning_of(self, kind: str) -> int:
        """Return the seconds of warning before the time limit, at most a fifth of a short job."""
        return min(self._warning, (self._resources.of(kind).minutes or 1) * 12)

    def _in_driver(self, kind: str) -> bool:
        return self._resources.of(kind).run_in == "driver"

    def _task(self, step: ComputeStep, stage: Callable[..., Any], args: tuple[Any, ...]) -> StageJob:
        minutes, warning = self._resources.of(step.kind).minutes or 1, self._warning_of(step.kind)
        return replace(super()._task(step, stage, args), seconds=minutes * 60.0, warning=float(warning))


def _test_submission(key: str, options: list[str], script: str) -> None:
    command, outside = ["sbatch", "--test-only", *options], environment_outside_jobs()
    result = subprocess.run(command, input=script, capture_output=True, text=True, check=False, env=outside)
    if result.returncode:
        error = SubmissionError(result.stderr)
        if error.queue_full:  # that passes, and submitting waits for it
            return
        of = key if key != "compute.pool" else "compute.resources.run"
        advice = error.advice(of)
        if "node configuration" in str(error):
            nodes = run_command(["sinfo", "--noheader", "--format=%P has nodes of %c cpus, %m MB, gres %G"])
            sizes = dict.fromkeys(nodes.stdout.replace("(null)", "none").splitlines() if nodes else ())
            advice = f"; lower {of}.cpus, {of}.memory_gb or {of}.gpus, or name a partition: {'; '.join(sizes)[:400]}"
        raise ComputeError(f"{key}: sbatch says: {error}{advice}")


class _Slurm(QueueMonitor, Cluster):
    def __init__(self, parameters: Callable[[str], dict[str, Any]]) -> None:
        super().__init__()
        self._parameters = parameters

    def submit(self, step: ComputeStep, task: StageJob) -> str:
        """Submit a job, waiting while the controller is away or the user's queue is full."""
        parameters = self._parameters(step.kind) | {"job_name": f"sia:{step.key}"}
        began, news = time.monotonic(), RepeatedNews()
        while True:
            try:
                return submit_jobs(step.folder, parameters, [task])[0]
            except SubmissionError as error:
                waited = time.monotonic() - began
                line = f"{error}{error.advice(f'compute.resources.{step.kind}', waited)}"
                if not error.transient or waited > PATIENCE:
                    raise JobStopped(f"{step.key}: sbatch refused the job: {line}") from error
                if news.due(line, waited):
                    step.say(f"{step.key}: sbatch says: {line}; it is tried again")
            time.sleep(AGAIN)

    def cancel(self, job: str) -> None:
        run_command(["scancel", job])

    def waiting(self, state: JobState | None, seconds: float) -> str:
        if self.silence() > _LONG:
            return f"is waited for, though SLURM has not answered for {_LONG:.0f} s"
        if state is None or state.name != "PENDING":
            return ""
        if state.reason in _HELD:
            return f"is held ({state.reason}); scontrol release lets it go"
        if state.reason.startswith(_NEVER):
            return f"may never start: {state.reason}"
        return f"waits in the queue: {state.reason}" if seconds > _LONG else ""

    def log(self, step: ComputeStep, job: str) -> Path:
        return step.folder / f"{job}_0_log.err"
