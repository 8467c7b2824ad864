"""The runs named by the folders of a command: runs, folders of runs, and sweeps with the runs that never started."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from sia_runner.reading.finding import find
from sia_runner.rundir import RunError
from sia_runner.sweep.plan import Planned, SweepDir
from sia_runner.sweep.table import status


@dataclass(frozen=True, slots=True)
class Found:
    """A run to report. `planned`, `sweep_status`, `sweep_message`: what its sweep knows of it, if it is in one.

    `sweep_status` is as in sweep_table.
    """

    name: str
    path: Path
    planned: Planned | None = None
    sweep_status: str = ""
    sweep_message: str = ""


def runs_of(folders: Sequence[Path]) -> list[Found]:
    """Return the runs in the order of folders and plans. Raises RunError for a folder without a run, or named twice."""
    runs: list[Found] = []
    for folder in folders:
        below = list(_runs_below(folder))
        if not below:
            raise RunError(f"{folder}: no run there, no folder of runs, and no sweep")
        runs += below
    paths = [run.path for run in runs]
    twice = next((path for at, path in enumerate(paths) if path in paths[:at]), None)
    if twice:
        raise RunError(f"{twice} is named twice")
    return [replace(run, name=_distinct_name(run, runs)) for run in runs]


def _runs_below(folder: Path) -> Iterator[Found]:
    sweep = SweepDir(folder)
    if sweep.is_sweep():
        yield from _sweep_runs(sweep)
        return
    sweeps: set[str] = set()
    for path, part_of in find(folder).items():
        if not part_of:
            yield Found((folder / path).name, folder / path)
        elif part_of not in sweeps:
            sweeps.add(part_of)
            yield from _sweep_runs(SweepDir(folder / part_of))


def _sweep_runs(sweep: SweepDir) -> Iterator[Found]:
    try:
        plan = sweep.read_plan()
    except (ValueError, TypeError, KeyError) as error:
        raise RunError(f"{sweep.plan} cannot be read ({type(error).__name__}); name the runs themselves") from error
    for run in plan.runs:
        try:
            outcome = status(sweep, run.name)
            message = " · ".join(map(str, (sweep.ended(run.name) or {}).get("said", [])))
        except (ValueError, KeyError, TypeError) as error:
            outcome, message = "damaged", f"{sweep.outcome(run.name).name}: {error}"
        yield Found(run.name, sweep.path / run.name, run, outcome, message)


def _distinct_name(run: Found, among: Sequence[Found]) -> str:
    """Return the shortest trailing path that tells the run from others of the same folder name."""
    namesakes = [other.path.parts for other in among if other.name == run.name]
    parts = run.path.parts
    parts_needed = next(
        k for k in range(1, len(parts) + 1) if sum(other[-k:] == parts[-k:] for other in namesakes) == 1
    )
    return run.name if parts_needed == 1 else "/".join(parts[-parts_needed:])
