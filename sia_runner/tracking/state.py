"""RUN/tracking/wandb.json: which W&B run this is, and which versions it has."""

import hashlib
from dataclasses import asdict, dataclass, field
from pathlib import Path

from sia_runner.rundir import RunDir, read_json, write_json


@dataclass(slots=True)
class State:
    """`artifacts`: keys of what W&B has taken, by mode; what was taken offline has still to be pushed."""

    id: str
    project: str
    entity: str | None
    mode: str = ""  # online | offline, of the newest process
    artifacts: dict[str, list[str]] = field(default_factory=lambda: {"online": [], "offline": []})

    @staticmethod
    def of(run: RunDir, project: str, entity: str | None, *, elsewhere: bool = False) -> "State":
        """As an earlier process left it: a run stays where it began, unless somebody sends it `elsewhere`. A new one
        gets an id of its own, derived from the first line of its journal, so that a copy is still the same run."""
        file = _file(run)
        if file.is_file():
            found = State(**read_json(file))
            if elsewhere and (found.project, found.entity) != (project, entity):
                found.project, found.entity, found.artifacts["online"] = project, entity, []
            return found
        with run.journal.open("rb") as lines:
            return State(hashlib.sha256(lines.readline()).hexdigest()[:16], project, entity)

    def keep(self, run: RunDir) -> None:
        run.tracking.mkdir(exist_ok=True)
        write_json(_file(run), asdict(self))


def _file(run: RunDir) -> Path:
    return run.tracking / "wandb.json"
