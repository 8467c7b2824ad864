"""Run stages as jobs on a SLURM cluster, through submitit."""

import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from sia_runner.compute.jobs import Jobs, State
from sia_runner.compute.local import submitit
from sia_runner.compute.pool_cluster import Pooled
from sia_runner.compute.pool_jobs import Submitted
from sia_runner.compute.protocol import ComputeError, Step, Stopped
from sia_runner.compute.sbatch import (
    TRANSIENT_ERRORS,
    environment_outside_jobs,
    sbatch_error_line,
    sbatch_parameters,
)
from sia_runner.compute.task import Task
from sia_runner.compute.watch import Watch
from sia_runner.schema.compute import ByKind

_PATIENCE = 3600.0  # seconds that a submission is tried again
_HELD = ("JobHeldUser", "JobHeldAdmin")
_NEVER = ("BadConstraints", "PartitionNodeLimit", "PartitionTimeLimit", "DependencyNeverSatisfied", "AccountNotAllowed",
          "QOSNotAllowed", "InvalidAccount", "InvalidQOS", "AssocMaxJobsLimit", "ReqNodeNotAvail", "PartitionDown",
          "PartitionInactive")  # fmt: skip
_LONG = 60.0  # seconds in the queue, or without an answer, after which the user is told
_environment = threading.Lock()  # submitting from inside a job changes os.environ for a moment


class Slurm(Jobs):
    """The `slurm` compute: each stage is a job."""

    def __init__(
        self, workers: int, site: str, warn_seconds: int, resources: dict[str, Any], pool: int | None = None
    ) -> None:
        """Take the resources of each kind of stage.

        `site` is for readers of the configuration: its profile has filled `resources` in.
        """
        super().__init__(workers)
        self._resources = ByKind.model_validate(resources)
        self._warning = warn_seconds
        slurm = _Slurm(self)
        self._cluster = Pooled(slurm, pool, slurm.workers) if pool else slurm

    @property
    def cluster(self) -> "Pooled | _Slurm":
        """The cluster, or the worker pool in front of it."""
        return self._cluster

    def check(self, kinds: Iterable[str]) -> None:
        """Raise ComputeError where sbatch is missing or would refuse a job of one of these kinds."""
        submitit()
        if not shutil.which("sbatch"):
            raise ComputeError("compute=slurm needs sbatch, which is not here: is this a login node of the cluster?")
        tried: list[dict[str, Any]] = []
        for kind in kinds:
            parameters = self.parameters(kind)
            if not self._in_driver(kind) and parameters not in tried:
                self._test_submission(kind, parameters)
                tried.append(parameters)

    def parameters(self, kind: str) -> dict[str, Any]:
        """Return the parameters of submitit's slurm executor for jobs of `kind`."""
        return sbatch_parameters(self._resources.of(kind), self._warning_of(kind))

    def _test_submission(self, kind: str, parameters: dict[str, Any]) -> None:
        """Raise ComputeError when sbatch would not accept such a job."""
        from submitit.slurm.slurm import _make_sbatch_string

        script = _make_sbatch_string(command="true", folder="/tmp", **parameters)  # noqa: S108 - nothing is written
        command = ["sbatch", "--test-only"]
        result = subprocess.run(
            command, input=script, capture_output=True, text=True, check=False, env=environment_outside_jobs()
        )
        if result.returncode:
            why = result.stderr.strip().rpartition("\n")[2].removeprefix("allocation failure: ")
            raise ComputeError(f"compute.resources.{kind}: sbatch says: {why}")

    def _warning_of(self, kind: str) -> int:
        """Return the seconds of warning before the time limit, at most a fifth of a short job."""
        return min(self._warning, (self._resources.of(kind).minutes or 1) * 12)

    def _in_driver(self, kind: str) -> bool:
        return self._resources.of(kind).where == "driver"

    def _task(self, step: Step, stage: Callable[..., Any], args: tuple[Any, ...]) -> Task:
        minutes, warning = self._resources.of(step.kind).minutes or 1, self._warning_of(step.kind)
        return replace(super()._task(step, stage, args), seconds=minutes * 60.0, warning=float(warning))


class _Slurm:
    """The `jobs.Cluster` of SLURM."""

    def __init__(self, owner: Slurm) -> None:
        self._owner, self._watch = owner, Watch()
        self.state, self.forget = self._watch.state, self._watch.forget

    def submit(self, step: Step, task: Task) -> str:
        """Submit a job, waiting while the controller is away or the user's queue is full."""
        executor = submitit().SlurmExecutor(step.folder)
        executor.update_parameters(**self._owner.parameters(step.kind), job_name=f"sia:{step.key}")
        until, reported = time.monotonic() + _PATIENCE, False
        while True:
            try:
                with _submitting():
                    return str(executor.submit(task).job_id)
            except (RuntimeError, subprocess.CalledProcessError, OSError) as error:
                why = sbatch_error_line(error)
                transient = TRANSIENT_ERRORS.search(why)
                if not transient or time.monotonic() > until:
                    raise Stopped(f"{step.key}: sbatch refused the job: {why}") from error
            if not reported:
                reported = True
                step.say(f"{step.key}: sbatch says: {why}; it is tried again")
            time.sleep(5.0)

    def workers(self, folder: Path) -> Submitted:
        """Return the starter of the pool's workers."""
        executor = submitit().SlurmExecutor(folder)
        executor.update_parameters(**self._owner.parameters("run"), job_name="sia:worker")
        return Submitted(executor, self, around=_submitting)

    def attach(self, step: Step, job: str) -> None:
        """Do nothing: squeue knows a job by its id."""

    def waiting(self, state: State | None, seconds: float) -> str:
        if self._watch.silence() > _LONG:
            return f"is waited for, though SLURM has not answered for {_LONG:.0f} s"
        if state is None or state.name != "PENDING":
            return ""
        if state.reason in _HELD:
            return f"is held ({state.reason}); scontrol release lets it go"
        if state.reason.startswith(_NEVER):
            return f"may never start: {state.reason}"
        return f"waits in the queue: {state.reason}" if seconds > _LONG else ""

    def log(self, step: Step, job: str) -> Path:
        return step.folder / f"{job}_0_log.err"


@contextmanager
def _submitting() -> Iterator[None]:
    with _environment, submitit().helpers.clean_env():
        yield
