"""Which runs are meant by the folders of a command: runs, folders of runs, sweeps with what never began in them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from sia_runner.reading.finding import find
from sia_runner.rundir import RunError
from sia_runner.sweep.plan import Planned, SweepDir
from sia_runner.sweep.table import status


@dataclass(frozen=True, slots=True)
class Found:
    """`planned`, `ended`, `said`: what its sweep knows of it, where it is part of one (`ended` as in sweep_table)."""

    name: str
    path: Path
    planned: Planned | None = None
    ended: str = ""
    said: str = ""


def runs_of(folders: Sequence[Path]) -> list[Found]:
    """In the order of the folders and of the plans. Raises RunError for a folder without a run, or named twice."""
    found: list[Found] = []
    for folder in folders:
        here = list(_below(folder))
        if not here:
            raise RunError(f"{folder}: no run there, no folder of runs, and no sweep")
        found += here
    paths = [run.path for run in found]
    twice = next((path for at, path in enumerate(paths) if path in paths[:at]), None)
    if twice:
        raise RunError(f"{twice} is named twice")
    return [replace(run, name=_name(run, found)) for run in found]


def _below(folder: Path) -> Iterator[Found]:
    sweep = SweepDir(folder)
    if sweep.is_sweep():
        yield from _swept(sweep)
        return
    seen: set[str] = set()
    for path, part_of in find(folder).items():
        if not part_of:
            yield Found((folder / path).name, folder / path)
        elif part_of not in seen:
            seen.add(part_of)
            yield from _swept(SweepDir(folder / part_of))


def _swept(sweep: SweepDir) -> Iterator[Found]:
    try:
        plan = sweep.read_plan()
    except (ValueError, TypeError, KeyError) as error:
        raise RunError(f"{sweep.plan} cannot be read ({type(error).__name__}); name the runs themselves") from error
    for run in plan.runs:
        try:
            ended = status(sweep, run.name)
            said = " · ".join(map(str, (sweep.ended(run.name) or {}).get("said", [])))
        except (ValueError, KeyError, TypeError) as error:
            ended, said = "damaged", f"{sweep.outcome(run.name).name}: {error}"
        yield Found(run.name, sweep.path / run.name, run, ended, said)


def _name(run: Found, among: Sequence[Found]) -> str:
    """With so many folders above it as tell it from the others of that name."""
    alike = [other.path.parts for other in among if other.name == run.name]
    parts = run.path.parts
    deep = next(k for k in range(1, len(parts) + 1) if sum(other[-k:] == parts[-k:] for other in alike) == 1)
    return run.name if deep == 1 else "/".join(parts[-deep:])
