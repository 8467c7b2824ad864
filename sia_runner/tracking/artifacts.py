"""The harnesses and adapters that are sent as versions, with their lineage."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sia_runner.rundir import RunDir, read_json, tree_sha256
from sia_runner.tracking.curve import Curve

Json = Mapping[str, Any]
_ORIGIN = "sia_adapter.json"
_LINEAGE = ("base_id", "base_sha256", "parent", "data_sha256", "algorithm", "steps", "seed", "kl", "reward")


@dataclass(frozen=True, slots=True)
class Made:
    """A harness or an adapter. `metadata` names what it was made from; `sha256` in it is the journal's (`build`)."""

    kind: str  # harness | adapter
    generation: int
    folder: Path
    metadata: dict[str, Any]

    @property
    def key(self) -> str:
        """The identity of the version within its run."""
        return f"{self.kind}/{self.generation}"

    def files(self) -> Iterator[tuple[str, Path]]:
        """Yield name and path of every regular file; links are left out, whatever they point at."""
        for path in sorted(self.folder.rglob("*")):
            if path.is_file() and not path.is_symlink():
                yield path.relative_to(self.folder).as_posix(), path


def where(run: RunDir, path: Path) -> str:
    """Return a path for wandb that names nothing of this machine, since wandb sends paths along with files.

    It goes through the working directory, which is the run directory for the sender and for wandb's own process.
    """
    return f"/proc/self/cwd/{path.relative_to(run.path).as_posix()}"


def made(run: RunDir, g: Json) -> list[Made]:
    """Return the harness of generation `g` of the summary, and the adapter if one was trained for it."""
    folders = run.generation(g["n"])
    versions: list[Made] = []
    common = {"generation": g["n"], "parent_generation": g["parent"], "status": g["status"], "lever": g["lever"],
              "val": g["val"]["value"] if g["val"] else None}  # fmt: skip
    if folders.harness.is_dir():
        metadata = {**common, "sha256": tree_sha256(folders.harness)}
        versions.append(Made("harness", g["n"], folders.harness, metadata))
    if folders.adapter.is_dir() and not folders.adapter.is_symlink() and (folders.adapter / _ORIGIN).is_file():
        origin = read_json(folders.adapter / _ORIGIN)
        lineage = {key: origin.get(key) for key in _LINEAGE} | {"rollouts": _rollouts(folders.curve)}
        metadata = {**common, **lineage, "sha256": tree_sha256(folders.adapter)}
        versions.append(Made("adapter", g["n"], folders.adapter, metadata))
    return versions


def _rollouts(curve: Path) -> int:
    """Return the number of trajectories that were made to train on."""
    return int(sum(figures.get("rollouts", 0) for figures in Curve(curve).news()))
