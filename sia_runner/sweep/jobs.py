"""Running a sweep as jobs through submitit: submit them, record them, wait for the outcome that each run writes.

submitit's own results are not used: waiting for them raises at the first lost job, and needs sacct.
"""

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pydantic import ValidationError

from sia_runner.compute.jobs import ENDED, Cluster, RepeatedNews
from sia_runner.compute.local import Local, import_submitit
from sia_runner.compute.protocol import ComputeError, ComputeStep
from sia_runner.compute.slurm import Slurm
from sia_runner.compute.submission import AGAIN, PATIENCE, SubmissionError, submit_jobs
from sia_runner.store.run_directory import RunDirectoryError
from sia_runner.sweep.plan import INTERRUPTED, SweepDir, SweepRun
from sia_runner.sweep.runner import compose_run, sweep_run_of
from sia_runner.sweep.table import sweep_run_status

_POLL = 0.5  # seconds between checks of the folder of outcomes
_JOB_POLL = 2.0  # seconds between checks of the jobs of runs without one; the queue itself is queried less often
# Hydra users know submitit's names -> our names
_NAMES = {"timeout_min": "minutes", "cpus_per_task": "cpus", "mem_gb": "memory_gb", "gpus_per_node": "gpus",
          "additional_parameters": "extra"}  # fmt: skip
_NO_RESOURCES = ("array_parallelism", "max_num_timeout", "signal_delay_s")


@dataclass(frozen=True, slots=True)
class _JobQueue:
    max_jobs: int  # submitted and unfinished at the same time
    grace_seconds: float  # how long the outcome of an ended job may take to appear, or the job to be queued again
    submit: Callable[[Sequence[SweepRun]], list[str]]  # the ids of their jobs; raises SubmissionError
    cluster: Cluster


def check_launcher_keys(cluster: str, keys: Mapping[str, Any]) -> None:
    """Raise RunError where such jobs would not be accepted."""
    for key in _NO_RESOURCES:
        value = keys.get(key)
        if key in keys and not (type(value) is int and value > 0) and (cluster, value) != ("local", None):
            raise RunDirectoryError(f"hydra.launcher.{key}={value}: input should be a valid integer greater than 0")
    try:
        if cluster == "slurm":
            _slurm_compute(keys).check(["run"])
        else:
            import_submitit()
    except ComputeError as error:
        text = _in_launcher_names(str(error).removeprefix("compute.resources.run: "))
        raise RunDirectoryError(f"hydra/launcher=submitit_{cluster}: {text}") from None


def _in_launcher_names(text: str) -> str:
    for hydra_name, name in _NAMES.items():
        text = text.replace(f"compute.resources.run.{name}", f"hydra.launcher.{hydra_name}")
    return text


def run_jobs(
    cluster: str, keys: Mapping[str, Any], loader: Any, config: Any, job_overrides: Sequence[Sequence[str]]
) -> None:
    """Submit the runs; return when each has an outcome or its job is gone. KeyboardInterrupt leaves jobs running."""
    runs = [sweep_run_of(*compose_run(loader, config, overrides)) for overrides in job_overrides]
    sweep = SweepDir(runs[0].sweep)
    launcher = (_on_slurm if cluster == "slurm" else _on_this_machine)(keys, sweep)
    running = _running_jobs(sweep, cluster, launcher, [run.name for run in runs])
    unsubmitted = [run for run in runs if run.name not in running]
    over_since: dict[str, float] = {}  # run -> when its job ended
    news = RepeatedNews()
    began = last_poll = submitted = time.monotonic()
    largest, next_try = launcher.max_jobs, began  # what one submission may hold; when the next is due
    while unsubmitted or running:
        batch = unsubmitted[: max(0, min(largest, launcher.max_jobs - len(running)))]
        if batch and time.monotonic() >= next_try:
            try:
                ids = dict(zip((run.name for run in batch), launcher.submit(batch), strict=True))
            except SubmissionError as error:
                if (error.array_too_large or error.queue_full) and len(batch) > 1:
                    largest = len(batch) // 2
                    continue
                next_try = time.monotonic() + AGAIN
                _report_refusal(error, 0.0 if running else next_try - submitted, next_try - submitted, news)
            else:
                sweep.record_jobs(cluster, ids)
                running.update(ids)
                del unsubmitted[: len(batch)]
                submitted = time.monotonic()
        time.sleep(_POLL)
        moment = time.monotonic()
        for name in _finished_runs(sweep, running):
            _print_status(sweep, name, running.pop(name))
        if moment - last_poll >= _JOB_POLL:
            last_poll = moment
            states = {name: launcher.cluster.state(job) for name, job in running.items()}
            ended = [name for name, state in states.items() if state and state.name in ENDED]
            over_since = {name: over_since.get(name, moment) for name in ended}
            for state in filter(None, states.values()):
                line = launcher.cluster.waiting(state, moment - began)
                if news.due(line, moment - began):  # one line for all jobs
                    print(f"a job {line}", flush=True)
        for name in [name for name in running if moment - over_since.get(name, moment) >= launcher.grace_seconds]:
            _print_status(sweep, name, running.pop(name))


def _report_refusal(error: SubmissionError, idle: float, waited: float, news: RepeatedNews) -> None:
    """Print that submitting is tried again; raise RunError where that is in vain. `idle`: seconds without any job."""
    line = f"sbatch says: {error}{_in_launcher_names(error.advice('compute.resources.run', idle))}"
    if not error.transient or idle > PATIENCE:
        raise RunDirectoryError(f"hydra/launcher=submitit_slurm: {line}") from None
    if news.due(line, waited):
        print(f"{line}; it is tried again", flush=True)


def _slurm_compute(keys: Mapping[str, Any]) -> Slurm:
    resources = {_NAMES.get(key, key): value for key, value in keys.items() if key not in _NO_RESOURCES}
    try:
        return Slurm(1, "none", keys["signal_delay_s"], {"default": resources})
    except ValidationError as error:
        fault = error.errors()[0]
        own_name = str(fault["loc"][-1])
        name = next((hydra_name for hydra_name, name in _NAMES.items() if name == own_name), own_name)
        raise RunDirectoryError(f"hydra.launcher.{name}={fault['input']}: {fault['msg'].lower()}") from None


def _on_slurm(keys: Mapping[str, Any], sweep: SweepDir) -> _JobQueue:
    parameters = (slurm := _slurm_compute(keys)).parameters("run")
    named = {"job_name": f"sia-{sweep.path.name}", "array_parallelism": keys["array_parallelism"]}

    def submit(runs: Sequence[SweepRun]) -> list[str]:
        # not jobs/%j: that folder is made after sbatch answers, and a job that starts earlier could not write its log
        return submit_jobs(sweep.jobs, parameters | named, runs, keys["max_num_timeout"])

    return _JobQueue(keys["array_parallelism"], 15.0, submit, slurm.cluster)


def _on_this_machine(keys: Mapping[str, Any], sweep: SweepDir) -> _JobQueue:
    max_jobs = keys["array_parallelism"] or max(1, (os.cpu_count() or 1) // 2)
    machine: Any = Local(1, max_jobs).cluster  # its cluster runs any callable
    hidden = {"CUDA_VISIBLE_DEVICES": os.environ.get("CUDA_VISIBLE_DEVICES")}  # submitit hides all GPUs

    def submit(runs: Sequence[SweepRun]) -> list[str]:
        ids: list[str] = []
        for run in runs:
            step = ComputeStep(run.name, "run", sweep.jobs / run.name, None, lambda _: None, print, run)
            ids.append(machine.submit(step, replace(run, environment=hidden)))
        return ids

    return _JobQueue(max_jobs, 2.0, submit, machine)


def _running_jobs(sweep: SweepDir, cluster: str, launcher: _JobQueue, names: Sequence[str]) -> dict[str, str]:
    recorded = {name: job for name, job in sweep.recorded_jobs(cluster).items() if name in names}
    give_up = time.monotonic() + 120
    while True:
        states = {name: launcher.cluster.state(job) for name, job in recorded.items()}
        if None not in states.values():
            return {name: recorded[name] for name, state in states.items() if state and state.name not in ENDED}
        if time.monotonic() > give_up:
            raise RunDirectoryError(f"{sweep.path}: the queue does not answer, so it is unknown which jobs still run")
        time.sleep(_POLL)


def _finished_runs(sweep: SweepDir, running: Mapping[str, str]) -> list[str]:
    """Return the runs that have ended for good: the cluster may queue the job of an interrupted run again."""
    present = set(sweep.outcome("-").parent.glob("*"))  # one listing for all: cheap on a network file system too
    names = [name for name in running if sweep.outcome(name) in present]
    return [name for name in names if (sweep.ended(name) or {}).get("code", INTERRUPTED) != INTERRUPTED]


def _print_status(sweep: SweepDir, name: str, job: str) -> None:
    print(f"{name}: {sweep_run_status(sweep, name)} (job {job})", flush=True)
