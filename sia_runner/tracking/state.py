"""The file RUN/tracking/wandb.json: which W&B run this is, and which versions it has."""

import hashlib
from dataclasses import asdict, dataclass, field
from pathlib import Path

from sia_runner.rundir import RunDir, read_json, write_json


@dataclass(slots=True)
class State:
    """The state of tracking. `artifacts`: mode -> keys that W&B has; those sent offline must still be pushed."""

    id: str
    project: str
    entity: str | None
    mode: str = ""  # online | offline, of the newest process
    artifacts: dict[str, list[str]] = field(default_factory=lambda: {"online": [], "offline": []})

    @staticmethod
    def of(run: RunDir, project: str, entity: str | None, *, elsewhere: bool = False) -> "State":
        """Return the state of an earlier process, or a new one.

        A run stays in its project unless the user sends it `elsewhere`. A new id is derived from the first line of the
        journal, so that a copy of the directory is still the same run.
        """
        file = _file(run)
        if file.is_file():
            state = State(**read_json(file))
            if elsewhere and (state.project, state.entity) != (project, entity):
                state.project, state.entity, state.artifacts["online"] = project, entity, []
            return state
        with run.journal.open("rb") as lines:
            return State(hashlib.sha256(lines.readline()).hexdigest()[:16], project, entity)

    def save(self, run: RunDir) -> None:
        """Write the state."""
        run.tracking.mkdir(exist_ok=True)
        write_json(_file(run), asdict(self))


def _file(run: RunDir) -> Path:
    return run.tracking / "wandb.json"
