"""Carrying out a whole sweep, as Hydra expands it: plan the runs, launch those that are missing, write the table."""

import os
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from sia_runner.config.composition import make_paths_absolute, quote_text
from sia_runner.config.experiment import check_experiment
from sia_runner.config.refusals import print_refusals
from sia_runner.experiment.runner import RESUMABLE_KEYS, stop_requested
from sia_runner.records import Json
from sia_runner.store.lease import RunLease
from sia_runner.store.run_directory import RunDirectoryError
from sia_runner.sweep.plan import INTERRUPTED, PlannedRun, SweepDir, SweepPlan, SweepRun
from sia_runner.sweep.table import arm_names, print_table, write_table


def sweep_run_of(composed: Any, hydra: Any) -> SweepRun:
    """Return the run that Hydra composed, with its own configuration. Raises OmegaConfBaseException."""
    plain: Any = OmegaConf.to_container(composed, resolve=True, throw_on_missing=True)
    make_paths_absolute(plain, hydra.runtime)
    return SweepRun(Path(hydra.sweep.dir).resolve(), str(hydra.sweep.subdir), plain, tuple(hydra.overrides.task))


def compose_run(loader: Any, config: Any, overrides: Sequence[str], number: int = 0) -> tuple[Any, Any]:
    """Return one run's configuration and Hydra's own. Raises what Hydra raises."""
    composed = loader.load_sweep_config(config, list(overrides))
    hydra = composed.hydra
    with open_dict(composed):
        hydra.job.num = hydra.job.id = number
        # both interpolate the run's keys, so they are resolved before Hydra's configuration is removed from it
        hydra.sweep.subdir = str(hydra.sweep.subdir)
        hydra.sweep.dir = str(hydra.sweep.dir)
        del composed["hydra"]
    return composed, hydra


def run_in_this_process(composed: Any, hydra: Any) -> int:
    """Carry out one run here; return its exit code. Raises KeyboardInterrupt if a signal asked the sweep to end."""
    code = sweep_run_of(composed, hydra)()
    if stop_requested():
        raise KeyboardInterrupt
    return code


_FINAL_EXIT_CODES = (0, 3, 4)  # exit codes that a resume changes only with more generations or budget


def run_sweep(
    loader: Any, config: Any, launcher: Any, arguments: Sequence[str], runs: Sequence[Sequence[str]] | None
) -> int:
    """Carry out the `runs` of a new sweep, or those that an earlier one lacks (None); return the worst exit code."""
    sweep = SweepDir(Path(config.hydra.sweep.dir).resolve())
    if runs is None:
        plan, extended = _extended_plan(sweep.read_plan(), arguments)
    else:
        plan, extended = _new_plan(loader, config, runs), False
    sweep.path.mkdir(parents=True, exist_ok=True)
    stopped = False
    with RunLease(sweep.path):
        if runs is not None and sweep.plan.exists():
            raise RunDirectoryError(f"{sweep.path} already holds a sweep; continue it with resume={sweep.path}")
        sweep.write_plan(plan)
        todo = [run for run in plan.runs if extended or not _is_done(sweep, run)]
        accepted = [overrides for run in todo if (overrides := _checked_overrides(sweep, run, loader, config))]
        try:
            if accepted:
                launcher.launch(accepted, initial_job_idx=0)
        except KeyboardInterrupt:
            stopped = True
        except RunDirectoryError:
            if runs is not None and not sweep.submitted.is_file():
                sweep.plan.unlink()  # nothing was started: the same line may be tried again
            raise
        write_table(sweep, plan)
    print_table(sweep, plan)
    codes = [outcome["code"] if (outcome := sweep.ended(run.name)) else INTERRUPTED for run in plan.runs]
    under_way = [job for run, job in sweep.recorded_jobs("slurm").items() if not sweep.ended(run)]
    if stopped and under_way:
        ids = " ".join(dict.fromkeys(job.partition("_")[0] for job in under_way))
        print(f"jobs on a cluster go on and are found again; to end them: scancel {ids}")
    if stopped or INTERRUPTED in codes:
        print(f"continue with: python -m sia_runner resume={sweep.path}")
    return INTERRUPTED if stopped else max(codes)


def _new_plan(loader: Any, config: Any, every: Sequence[Sequence[str]]) -> SweepPlan:
    runs: list[PlannedRun] = []
    own_names = not any(arg.startswith("hydra.sweep.subdir=") for arg in sys.argv[1:])
    for number, (overrides, arm) in enumerate(zip(every, arm_names(every), strict=True)):
        composed, hydra = compose_run(loader, config, overrides, number)
        task, mode = str(composed.task.name), str(composed.trainer.mode)
        name = str(hydra.sweep.subdir)
        if own_names and (swept := _swept_name(arm)):
            name = f"{name}-{swept}"
        runs.append(PlannedRun(name, tuple(overrides), task, mode, int(composed.seed)))
    names = [run.name for run in runs]
    duplicate = next((name for at, name in enumerate(names) if name in names[:at]), None)
    if duplicate:
        problem = "two runs of the sweep would share it; it may contain hydra.job.num"
        raise RunDirectoryError(f"hydra.sweep.subdir={duplicate}: {problem}")
    args = tuple(arg for arg in sys.argv[1:] if not arg.startswith("hydra.sweep.dir="))
    return SweepPlan(args, str(Path.cwd()), tuple(runs))


def _swept_name(arm: str) -> str:
    """Return the swept keys of a run for the name of its folder: ``search.accept.rule=mcnemar``."""
    keys = [part for part in arm.split() if not part.startswith("experiment=")]  # the name has its mode already
    return re.sub(r"[^\w.=-]+", "_", "-".join(keys))[:60]


def _extended_plan(plan: SweepPlan, arguments: Sequence[str]) -> tuple[SweepPlan, bool]:
    """Return the plan with the overrides given beside resume=, and whether they may change runs that have ended."""
    earlier = {arg for run in plan.runs for arg in run.overrides} | set(plan.args)
    new = tuple(arg for arg in arguments if arg.startswith(RESUMABLE_KEYS) and arg not in earlier)
    runs = tuple(replace(run, overrides=(*run.overrides, *new)) for run in plan.runs)
    return SweepPlan((*plan.args, *new), plan.cwd, runs), bool(new)


def _is_done(sweep: SweepDir, run: PlannedRun) -> bool:
    outcome = sweep.ended(run.name)
    return bool(outcome) and outcome["code"] in _FINAL_EXIT_CODES and (sweep.path / run.name / "config.yaml").is_file()


def _checked_overrides(sweep: SweepDir, run: PlannedRun, loader: Any, config: Any) -> list[str] | None:
    """Return the overrides to launch the run with, or None if it is refused, which is recorded as its outcome."""
    if sweep.ended(run.name):
        sweep.outcome(run.name).unlink()  # it is that of an earlier process
    overrides = [*run.overrides, f"hydra.sweep.subdir={quote_text(run.name)}"]
    plain: Json = {}
    with print_refusals(plain, run.name) as outcome:
        try:
            plain |= sweep_run_of(*compose_run(loader, config, overrides)).plain
        except OmegaConfBaseException as error:
            raise RunDirectoryError(str(error).splitlines()[0]) from error
        check_experiment(plain)
        return overrides
    sweep.end(run.name, outcome.code, outcome.lines)
    return None


def resume_sweep(sweep: SweepDir, overrides: Sequence[str], compose_and_run: Callable[[], int]) -> int:
    """Repeat the command that declared the sweep, with `overrides`, in the same folder; return its exit code."""
    allowed = (*RESUMABLE_KEYS, "hydra/launcher=", "hydra.launcher.")
    for override in overrides:
        if "=" not in override or not override.startswith(allowed):
            raise RunDirectoryError(
                f"{override}: a resumed sweep keeps what it was declared with; allowed beside resume=: max_gen=…, "
                "budget.*=…, compute.*=…, provider.key_file=…, hydra/launcher=…, hydra.launcher.*=…"
            )
    plan = sweep.read_plan()
    if not Path(plan.cwd).is_dir():
        problem = f"{plan.cwd} is missing; the sweep was started there and its paths are relative to it"
        raise RunDirectoryError(f"resume={sweep.path}: {problem}")
    os.chdir(plan.cwd)
    again = (f"hydra.sweep.dir={quote_text(str(sweep.path))}", "hydra.sweeper.resume=true")
    sys.argv[1:] = _merge_arguments(plan.args, [*overrides, *again])
    return compose_and_run()


def _merge_arguments(args: Sequence[str], overrides: Sequence[str]) -> list[str]:
    """Return `args` with `overrides` in place of those of the same key; Hydra takes no option between overrides."""
    keys = {override.partition("=")[0] for override in overrides}
    remaining = [arg for arg in args if arg.partition("=")[0] not in keys]
    if "hydra/launcher" in keys:  # keys of the previous launcher
        remaining = [arg for arg in remaining if not arg.startswith("hydra.launcher.")]
    multirun = [] if {"-m", "--multirun"} & set(remaining) else ["--multirun"]
    positions = [index for index, arg in enumerate(remaining) if "=" in arg and not arg.startswith("-")]
    end = positions[-1] + 1 if positions else len(remaining)
    return [*multirun, *remaining[:end], *overrides, *remaining[end:]]
