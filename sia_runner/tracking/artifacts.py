"""Harnesses and adapters as versions, with where they come from."""

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
    """`metadata` names what it was made from; `sha256` there is the one of the journal (`build`)."""

    kind: str  # harness | adapter
    generation: int
    folder: Path
    metadata: dict[str, Any]

    @property
    def key(self) -> str:
        return f"{self.kind}/{self.generation}"

    def files(self) -> Iterator[tuple[str, Path]]:
        """Name and place of every regular file; links are left out, whatever they point at."""
        for path in sorted(self.folder.rglob("*")):
            if path.is_file() and not path.is_symlink():
                yield path.relative_to(self.folder).as_posix(), path


def where(run: RunDir, path: Path) -> str:
    """For wandb, which sends the place of each file along with it: as seen from the working directory, which is the run
    directory both of the sender and of wandb's own process. So no name of this machine is told."""
    return f"/proc/self/cwd/{path.relative_to(run.path).as_posix()}"


def made(run: RunDir, g: Json) -> list[Made]:
    """What generation `g` of the summary left: its harness, and its adapter where one was trained for it."""
    here = run.generation(g["n"])
    found: list[Made] = []
    common = {"generation": g["n"], "parent_generation": g["parent"], "status": g["status"], "lever": g["lever"],
              "val": g["val"]["value"] if g["val"] else None}  # fmt: skip
    if here.harness.is_dir():
        metadata = {**common, "sha256": tree_sha256(here.harness)}
        found.append(Made("harness", g["n"], here.harness, metadata))
    if here.adapter.is_dir() and not here.adapter.is_symlink() and (here.adapter / _ORIGIN).is_file():
        origin = read_json(here.adapter / _ORIGIN)
        lineage = {key: origin.get(key) for key in _LINEAGE} | {"rollouts": _rollouts(here.curve)}
        metadata = {**common, **lineage, "sha256": tree_sha256(here.adapter)}
        found.append(Made("adapter", g["n"], here.adapter, metadata))
    return found


def _rollouts(curve: Path) -> int:
    """Trajectories that were made to train on."""
    return int(sum(figures.get("rollouts", 0) for figures in Curve(curve).news()))
