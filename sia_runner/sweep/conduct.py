"""Carrying out a whole sweep: plan the runs, launch them, write the table.

Hydra expands the runs and a launcher carries them out. The sweep's folder keeps what was declared, so that
``resume=DIR`` runs what is missing and nothing else.
"""

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from sia_runner.compose.refusals import REFUSED
from sia_runner.ground.lease import Lease
from sia_runner.rundir import RunError
from sia_runner.sweep.compose import compose, composed_run
from sia_runner.sweep.plan import INTERRUPTED, Plan, Planned, SweepDir

FINAL = (0, 3, 4)  # exit codes that a resume changes only with more generations or budget
Expand = Callable[[Sequence[str]], list[list[str]]]


def conduct(loader: Any, config: Any, arguments: Sequence[str], expand: Expand, launcher: Any, *, resume: bool) -> int:
    """Carry out a new sweep, or with `resume` the missing runs of one, and return the worst exit code of its runs.

    Raises RunError and HydraException before anything is started.
    """
    from sia_runner.sweep.table import show, write

    sweep = SweepDir(Path(config.hydra.sweep.dir).resolve())
    if resume:
        plan, extended = _extended_plan(sweep.read_plan(), arguments)
    else:
        plan, extended = _new_plan(sweep, loader, config, expand(arguments)), False
    sweep.path.mkdir(parents=True, exist_ok=True)
    stopped = False
    with Lease(sweep.path):
        if not resume and sweep.plan.exists():
            raise RunError(f"{sweep.path} already holds a sweep; continue it with resume={sweep.path}")
        sweep.write_plan(plan)
        todo = [run for run in plan.runs if extended or not _done(sweep, run)]
        accepted = [overrides for run in todo if (overrides := _checked_overrides(sweep, run, loader, config))]
        try:
            if accepted:
                launcher.launch(accepted, initial_job_idx=0)
        except KeyboardInterrupt:
            stopped = True
        write(sweep, plan)
    show(sweep, plan)
    codes = [outcome["code"] if (outcome := sweep.ended(run.name)) else INTERRUPTED for run in plan.runs]
    if stopped and sweep.submitted.is_file():
        print(f"jobs on a cluster go on and are found again; to end them: scancel --name=sia-{sweep.path.name}")
    if stopped or INTERRUPTED in codes:
        print(f"continue with: python -m sia_runner resume={sweep.path}")
    return INTERRUPTED if stopped else max(codes)


def _new_plan(sweep: SweepDir, loader: Any, config: Any, every: Sequence[Sequence[str]]) -> Plan:
    """Compose every run, so that an unknown choice or key refuses the sweep before anything starts."""
    runs: list[Planned] = []
    for number, overrides in enumerate(every):
        composed, hydra = compose(loader, config, overrides, number)
        task, mode = str(composed.task.name), str(composed.trainer.mode)
        runs.append(Planned(str(hydra.sweep.subdir), tuple(overrides), task, mode, int(composed.seed)))
    names = [run.name for run in runs]
    duplicate = next((name for at, name in enumerate(names) if name in names[:at]), None)
    if duplicate:
        raise RunError(
            f"hydra.sweep.subdir={duplicate}: two runs of the sweep would share it; it may contain hydra.job.num"
        )
    return Plan(_without_folder(sys.argv[1:]), str(Path.cwd()), tuple(runs))


def _without_folder(args: Sequence[str]) -> tuple[str, ...]:
    return tuple(arg for arg in args if not arg.startswith("hydra.sweep.dir="))


def _extended_plan(plan: Plan, arguments: Sequence[str]) -> tuple[Plan, bool]:
    """Return the plan with the overrides given beside resume=, and whether they may change runs that have ended."""
    earlier = {arg for run in plan.runs for arg in run.overrides} | set(plan.args)
    new = tuple(arg for arg in arguments if arg.startswith(_resumable()) and arg not in earlier)
    runs = tuple(Planned(r.name, (*r.overrides, *new), r.task, r.mode, r.seed) for r in plan.runs)
    return Plan((*plan.args, *new), plan.cwd, runs), bool(new)


def _resumable() -> tuple[str, ...]:
    from sia_runner.run.runner import RESUMABLE

    return RESUMABLE


def _done(sweep: SweepDir, run: Planned) -> bool:
    outcome = sweep.ended(run.name)
    return bool(outcome) and outcome["code"] in FINAL and (sweep.path / run.name / "config.yaml").is_file()


def _checked_overrides(sweep: SweepDir, run: Planned, loader: Any, config: Any) -> list[str] | None:
    """Return the overrides to launch the run with; None where its configuration is refused.

    A refusal becomes the outcome of that run: combinations that make no sense are ordinary in a sweep.
    """
    from omegaconf.errors import OmegaConfBaseException
    from pydantic import ValidationError

    from sia_runner.compose.problems import explain
    from sia_runner.config import check

    if sweep.ended(run.name):
        sweep.outcome(run.name).unlink()  # it is that of an earlier process
    overrides = [*run.overrides, f"hydra.sweep.subdir='{run.name}'"]
    plain: dict[str, Any] = {}
    try:
        plain = composed_run(*compose(loader, config, overrides)).plain
        check(plain)
        return overrides
    except OmegaConfBaseException as error:
        lines = [str(error).splitlines()[0]]
    except ValidationError as error:
        lines = explain(error, plain)
    for line in lines:
        print(f"refused: {run.name}: {line}", file=sys.stderr)
    sweep.end(run.name, REFUSED, lines)
    return None


def resume_sweep(sweep: SweepDir, overrides: Sequence[str]) -> int:
    """Repeat the command that declared the sweep, in the same folder, and return its exit code.

    `overrides` are those a resumed run may be given, another launcher, or keys of a launcher.
    """
    from sia_runner.compose.hydra_app import launch

    allowed = (*_resumable(), "hydra/launcher=", "hydra.launcher.")
    for override in overrides:
        if "=" not in override or not override.startswith(allowed):
            raise RunError(
                f"{override}: a resumed sweep keeps what it was declared with; allowed beside resume=: max_gen=…, "
                "budget.*=…, compute.*=…, hydra/launcher=…, hydra.launcher.*=…"
            )
    plan = sweep.read_plan()
    if not Path(plan.cwd).is_dir():
        raise RunError(
            f"resume={sweep.path}: {plan.cwd} is missing; the sweep was started there and its paths are relative to it"
        )
    os.chdir(plan.cwd)
    again = (f"hydra.sweep.dir='{sweep.path}'", "hydra.sweeper.resume=true")
    sys.argv[1:] = _merge_arguments(plan.args, [*overrides, *again])
    return launch()


def _merge_arguments(args: Sequence[str], overrides: Sequence[str]) -> list[str]:
    """Return the original arguments with `overrides` in place of those of the same key, and with --multirun.

    Overrides stay together: Hydra takes no option between them.
    """
    keys = {override.partition("=")[0] for override in overrides}
    remaining = [arg for arg in args if arg.partition("=")[0] not in keys]
    if "hydra/launcher" in keys:  # keys of the previous launcher
        remaining = [arg for arg in remaining if not arg.startswith("hydra.launcher.")]
    multirun = [] if {"-m", "--multirun"} & set(remaining) else ["--multirun"]
    positions = [index for index, arg in enumerate(remaining) if "=" in arg and not arg.startswith("-")]
    end = positions[-1] + 1 if positions else len(remaining)
    return [*multirun, *remaining[:end], *overrides, *remaining[end:]]
