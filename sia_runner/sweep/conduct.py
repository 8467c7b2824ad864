"""A sweep from beginning to end: what is to be run, who runs it, what came of it. Hydra expands, a launcher carries
out; what was declared stays in the sweep's folder, so that ``resume=DIR`` does what is missing and nothing else."""

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

FINAL = (0, 3, 4)  # exit codes of runs that a resume without more generations or budget would not change
Expand = Callable[[Sequence[str]], list[list[str]]]


def conduct(loader: Any, config: Any, arguments: Sequence[str], expand: Expand, launcher: Any, *, resume: bool) -> int:
    """Carry out a new sweep, or with `resume` what is missing of it. Returns the worst exit code of its runs. Raises
    RunError and HydraException before anything is started."""
    from sia_runner.sweep.table import show, write

    sweep = SweepDir(Path(config.hydra.sweep.dir).resolve())
    if resume:
        plan, given = _extended(sweep.read_plan(), arguments)
    else:
        plan, given = _declared(sweep, loader, config, expand(arguments)), False
    sweep.path.mkdir(parents=True, exist_ok=True)
    stopped = False
    with Lease(sweep.path):
        if not resume and sweep.plan.exists():
            raise RunError(f"{sweep.path} already holds a sweep; continue it with resume={sweep.path}")
        sweep.write_plan(plan)
        todo = [run for run in plan.runs if given or not _done(sweep, run)]
        accepted = [overrides for run in todo if (overrides := _accepted(sweep, run, loader, config))]
        try:
            if accepted:
                launcher.launch(accepted, initial_job_idx=0)
        except KeyboardInterrupt:
            stopped = True
        write(sweep, plan)
    show(sweep, plan)
    codes = [ended["code"] if (ended := sweep.ended(run.name)) else INTERRUPTED for run in plan.runs]
    if stopped and sweep.submitted.is_file():
        print(f"jobs on a cluster go on and are found again; to end them: scancel --name=sia-{sweep.path.name}")
    if stopped or INTERRUPTED in codes:
        print(f"continue with: python -m sia_runner resume={sweep.path}")
    return INTERRUPTED if stopped else max(codes)


def _declared(sweep: SweepDir, loader: Any, config: Any, every: Sequence[Sequence[str]]) -> Plan:
    """Composes every run, so that a choice or key that is not there refuses the sweep before anything starts."""
    runs: list[Planned] = []
    for number, overrides in enumerate(every):
        composed, hydra = compose(loader, config, overrides, number)
        task, mode = str(composed.task.name), str(composed.trainer.mode)
        runs.append(Planned(str(hydra.sweep.subdir), tuple(overrides), task, mode, int(composed.seed)))
    names = [run.name for run in runs]
    twice = next((name for at, name in enumerate(names) if name in names[:at]), None)
    if twice:
        raise RunError(
            f"hydra.sweep.subdir={twice}: two runs of the sweep would share it; it may contain hydra.job.num"
        )
    return Plan(_without_folder(sys.argv[1:]), str(Path.cwd()), tuple(runs))


def _without_folder(args: Sequence[str]) -> tuple[str, ...]:
    return tuple(arg for arg in args if not arg.startswith("hydra.sweep.dir="))


def _extended(plan: Plan, arguments: Sequence[str]) -> tuple[Plan, bool]:
    """The plan with what was given beside resume=, and whether that may change runs that have ended."""
    known = {arg for run in plan.runs for arg in run.overrides} | set(plan.args)
    new = tuple(arg for arg in arguments if arg.startswith(_resumable()) and arg not in known)
    runs = tuple(Planned(r.name, (*r.overrides, *new), r.task, r.mode, r.seed) for r in plan.runs)
    return Plan((*plan.args, *new), plan.cwd, runs), bool(new)


def _resumable() -> tuple[str, ...]:
    from sia_runner.run.runner import RESUMABLE

    return RESUMABLE


def _done(sweep: SweepDir, run: Planned) -> bool:
    ended = sweep.ended(run.name)
    return bool(ended) and ended["code"] in FINAL and (sweep.path / run.name / "config.yaml").is_file()


def _accepted(sweep: SweepDir, run: Planned, loader: Any, config: Any) -> list[str] | None:
    """The overrides to launch it with. None where its configuration is refused, which is that run's outcome:
    combinations that make no sense are ordinary in a sweep."""
    from omegaconf.errors import OmegaConfBaseException
    from pydantic import ValidationError

    from sia_runner.compose.problems import explain
    from sia_runner.config import check

    if sweep.ended(run.name):
        sweep.outcome(run.name).unlink()  # of an earlier process: this is about the next one
    overrides = [*run.overrides, f"hydra.sweep.subdir='{run.name}'"]
    plain: dict[str, Any] = {}
    try:
        plain = composed_run(*compose(loader, config, overrides)).plain
        check(plain)
        return overrides
    except OmegaConfBaseException as error:
        said = [str(error).splitlines()[0]]
    except ValidationError as error:
        said = explain(error, plain)
    for line in said:
        print(f"refused: {run.name}: {line}", file=sys.stderr)
    sweep.end(run.name, REFUSED, said)
    return None


def resume_sweep(sweep: SweepDir, overrides: Sequence[str]) -> int:
    """The command that declared the sweep once more, in its folder. `overrides`: what a resumed run may be given, and
    another launcher or other keys of it."""
    from sia_runner.compose.hydra_app import launch

    allowed = (*_resumable(), "hydra/launcher=", "hydra.launcher.")
    for override in overrides:
        if "=" not in override or not override.startswith(allowed):
            raise RunError(
                f"{override}: what a sweep runs is kept in it; allowed beside resume=: max_gen=…, budget.*=…, "
                "compute.*=…, hydra/launcher=…, hydra.launcher.*=…"
            )
    plan = sweep.read_plan()
    if not Path(plan.cwd).is_dir():
        raise RunError(f"resume={sweep.path}: {plan.cwd} is not there, where the sweep was started and its paths begin")
    os.chdir(plan.cwd)
    again = (f"hydra.sweep.dir='{sweep.path}'", "hydra.sweeper.resume=true")
    sys.argv[1:] = _merged(plan.args, [*overrides, *again])
    return launch()


def _merged(args: Sequence[str], overrides: Sequence[str]) -> list[str]:
    """What is given now in place of what was given for the same key; -m where nothing says it. Overrides stay together:
    Hydra takes no option between them."""
    keys = {override.partition("=")[0] for override in overrides}
    kept = [arg for arg in args if arg.partition("=")[0] not in keys]
    if "hydra/launcher" in keys:  # keys of the launcher that was
        kept = [arg for arg in kept if not arg.startswith("hydra.launcher.")]
    multirun = [] if {"-m", "--multirun"} & set(kept) else ["--multirun"]
    places = [at for at, arg in enumerate(kept) if "=" in arg and not arg.startswith("-")]
    end = places[-1] + 1 if places else len(kept)
    return [*multirun, *kept[:end], *overrides, *kept[end:]]
