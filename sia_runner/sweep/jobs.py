"""Runs of a sweep as jobs, through submitit: submitted, noted, waited for. What counts is the outcome that a run leaves
in the sweep's folder; a job that is gone without one ended that run and no other. Waiting for submitit's own results
would raise at the first such job, and asks sacct, which many clusters do not have."""

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pydantic import ValidationError

from sia_runner.compute.jobs import ENDED, State
from sia_runner.compute.local import Local, submitit
from sia_runner.compute.protocol import ComputeError, Step
from sia_runner.compute.slurm import Slurm
from sia_runner.rundir import RunError
from sia_runner.sweep.compose import compose, composed_run
from sia_runner.sweep.one_run import SweepRun
from sia_runner.sweep.plan import INTERRUPTED, SweepDir
from sia_runner.sweep.table import status

POLL = 0.5  # seconds between looks at the folder of outcomes
ASK = 2.0  # seconds between looks at the jobs of runs without one; the queue itself is asked more rarely
# submitit's names, as users of Hydra know them -> ours
_NAMES = {"timeout_min": "minutes", "cpus_per_task": "cpus", "mem_gb": "memory_gb", "gpus_per_node": "gpus",
          "additional_parameters": "extra"}  # fmt: skip
_NO_RESOURCES = ("array_parallelism", "max_num_timeout", "signal_delay_s")


@dataclass(frozen=True, slots=True)
class Place:
    """Where jobs run."""

    at_once: int  # jobs submitted and not over
    settle: float  # seconds that an ended job's outcome may take to be seen, or the job to be queued again
    submit: Callable[[Sequence[SweepRun]], list[str]]  # the ids of their jobs
    state: Callable[[str], State | None]  # None: nobody answered yet
    waiting: Callable[[State, float], str]  # what to tell of a job that waits for so many seconds; empty: nothing


def check(cluster: str, keys: Mapping[str, Any]) -> None:
    """Would such jobs be accepted? Raises RunError."""
    for key in _NO_RESOURCES:
        value = keys.get(key)
        if key in keys and not (type(value) is int and value > 0) and (cluster, value) != ("local", None):
            raise RunError(f"hydra.launcher.{key}={value}: input should be a valid integer greater than 0")
    try:
        if cluster == "slurm":
            _slurm(keys).check(["run"])
        else:
            submitit()
    except ComputeError as error:
        raise RunError(
            f"hydra/launcher=submitit_{cluster}: {str(error).removeprefix('compute.resources.run: ')}"
        ) from None


def carry_out(
    cluster: str, keys: Mapping[str, Any], loader: Any, config: Any, job_overrides: Sequence[Sequence[str]]
) -> None:
    """Returns when every run has an outcome or its job is gone. KeyboardInterrupt leaves the jobs alone."""
    runs = [composed_run(*compose(loader, config, overrides)) for overrides in job_overrides]
    sweep = SweepDir(runs[0].sweep)
    place = (_on_slurm if cluster == "slurm" else _on_this_machine)(keys, sweep)
    running = _attached(sweep, cluster, place, [run.name for run in runs])
    new = [run for run in runs if run.name not in running]

    def fill() -> None:
        batch = [new.pop(0) for _ in range(min(len(new), place.at_once - len(running)))]
        if batch:
            ids = dict(zip((run.name for run in batch), place.submit(batch), strict=True))
            sweep.note_jobs(cluster, ids)
            running.update(ids)

    fill()
    _wait(sweep, running, place, fill)


def _slurm(keys: Mapping[str, Any]) -> Slurm:
    asked = {_NAMES.get(key, key): value for key, value in keys.items() if key not in _NO_RESOURCES}
    try:
        return Slurm(1, "none", keys["signal_delay_s"], {"default": asked})
    except ValidationError as error:
        fault = error.errors()[0]
        ours = str(fault["loc"][-1])
        name = next((theirs for theirs, own in _NAMES.items() if own == ours), ours)
        raise RunError(f"hydra.launcher.{name}={fault['input']}: {fault['msg'].lower()}") from None


def _on_slurm(keys: Mapping[str, Any], sweep: SweepDir) -> Place:
    """One array; SLURM bounds how many of it run."""
    slurm = _slurm(keys)
    # not jobs/%j: such a folder is made when sbatch has answered, and a job that starts before has nowhere to write
    executor = submitit().SlurmExecutor(sweep.jobs, max_num_timeout=keys["max_num_timeout"])
    named = {"job_name": f"sia-{sweep.path.name}", "array_parallelism": keys["array_parallelism"]}
    executor.update_parameters(**slurm.parameters("run"), **named)

    def submit(runs: Sequence[SweepRun]) -> list[str]:
        try:
            with submitit().helpers.clean_env(), executor.batch():  # this driver may be a job itself
                jobs = [executor.submit(run) for run in runs]
        except submitit().core.utils.FailedJobError as error:
            raise RunError(f"hydra/launcher=submitit_slurm: {' '.join(str(error).split())[-400:]}") from None
        return [str(job.job_id) for job in jobs]

    return Place(1_000_000, 15.0, submit, slurm.cluster.state, slurm.cluster.waiting)


def _on_this_machine(keys: Mapping[str, Any], sweep: SweepDir) -> Place:
    at_once = keys["array_parallelism"] or max(1, (os.cpu_count() or 1) // 2)
    machine: Any = Local(1, at_once).cluster  # which carries out anything that can be called
    hidden = {"CUDA_VISIBLE_DEVICES": os.environ.get("CUDA_VISIBLE_DEVICES")}  # by submitit, all of them

    def submit(runs: Sequence[SweepRun]) -> list[str]:
        ids: list[str] = []
        for run in runs:
            step = Step(run.name, "run", sweep.jobs / run.name, None, lambda _: None, print, run)
            ids.append(machine.submit(step, replace(run, environment=hidden)))
        return ids

    return Place(at_once, 2.0, submit, machine.state, machine.waiting)


def _attached(sweep: SweepDir, cluster: str, place: Place, names: Sequence[str]) -> dict[str, str]:
    """Run -> job, of jobs of an earlier command that still wait or run."""
    noted = {name: job for name, job in sweep.noted_jobs(cluster).items() if name in names}
    states = {name: place.state(job) for name, job in noted.items()}
    give_up = time.monotonic() + 120
    while None in states.values():
        if time.monotonic() > give_up:
            raise RunError(f"{sweep.path}: the queue does not answer, so that nobody knows which jobs still run")
        time.sleep(POLL)
        states = {name: place.state(job) for name, job in noted.items()}
    return {name: noted[name] for name, state in states.items() if state and state.name not in ENDED}


def _wait(sweep: SweepDir, running: dict[str, str], place: Place, fill: Callable[[], None]) -> None:
    """`running`: run -> job. Until nothing runs and `fill` brings nothing more."""
    over: dict[str, float] = {}  # run -> since when its job is
    told: set[str] = set()
    began = asked = time.monotonic()
    while running:
        time.sleep(POLL)
        now = time.monotonic()
        for name in _ended(sweep, running):
            _say(sweep, name, running.pop(name))
        if now - asked >= ASK:
            asked = now
            states = {name: place.state(job) for name, job in running.items()}
            over = {name: over.get(name, now) for name, state in states.items() if state and state.name in ENDED}
            for state in filter(None, states.values()):
                told |= _tell(place.waiting(state, now - began), told)
        for name in [name for name in running if now - over.get(name, now) >= place.settle]:
            _say(sweep, name, running.pop(name))
        fill()


def _tell(line: str, told: set[str]) -> set[str]:
    """Say it once for all jobs."""
    if line and line not in told:
        print(f"a job {line}", flush=True)
    return {line}


def _ended(sweep: SweepDir, running: Mapping[str, str]) -> list[str]:
    """An interrupted run's job may be queued again by the cluster: it has ended when the job is gone."""
    outcomes = sweep.outcome("-").parent
    present = set(outcomes.iterdir()) if outcomes.is_dir() else set()  # one look for all, also through a network
    there = [name for name in running if sweep.outcome(name) in present]
    return [name for name in there if (sweep.ended(name) or {}).get("code", INTERRUPTED) != INTERRUPTED]


def _say(sweep: SweepDir, name: str, job: str) -> None:
    print(f"{name}: {status(sweep, name)} (job {job})", flush=True)
