"""The facts about an experiment that are sent, and its harnesses and adapters as versions with their lineage.

What is not named here (paths, addresses, headers, key files, commands) never leaves the machine.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sia_runner.records import Json
from sia_runner.store.generations import GenerationRecord
from sia_runner.store.run_directory import RunDir, read_json, tree_sha256
from sia_runner.tracking.rows import CurveReader
from sia_runner.wire.adapter_files import ORIGIN_FILE

_MAX_NAME = 128  # characters that W&B takes
_LOCK_KEYS = ("sia_runner", "git", "config_sha256", "python", "packages", "data", "policy")


def experiment_facts(run: RunDir, config: Mapping[str, Any]) -> Json:
    """Return W&B's `config`, by which runs are filtered and compared."""
    task, trainer = config["task"], config["trainer"]
    locked, metric = read_json(run.lock), read_json(run.summary)["metric"]
    return {
        "run": run.path.name,
        "sweep": _sweep_name(run),
        "task": task["name"],
        "mode": trainer["mode"],
        "metric": metric["name"],
        "higher_is_better": metric["higher_is_better"],
        "splits": task.get("splits"),
        **{key: config[key] for key in ("seed", "split_seed", "search", "max_gen", "budget")},
        **{key: config[key]["name"] for key in ("meta_agent", "target_agent", "sandbox", "compute")},
        "models": model_names(config),
        "trainer": {key: value for key, value in trainer.items() if key != "_target_"},
        "lever": config.get("lever"),
        "lock": {key: locked.get(key) for key in _LOCK_KEYS},
    }


def model_names(config: Mapping[str, Any]) -> dict[str, str]:
    """Return role -> model, for the models that the experiment may call."""
    meta, target = config["meta_agent"].get("provider"), config["target_agent"].get("provider")
    meta, target = meta or config["provider"], target or config["provider"]
    kind, trained = config["target_agent"]["kind"], config["trainer"]["kind"] != "none"
    names: dict[str, str] = {}
    if "provider" in config["meta_agent"] and meta.get("model"):
        names["meta"] = f"{meta['name']}/{meta['model']}"
    if kind == "policy" or (kind == "auto" and trained):
        base = config["target_agent"]["policy"]["base"]
        names["target"] = Path(base).name if base.startswith((".", "/", "~")) else base
    elif kind in ("auto", "model") and target.get("model"):
        names["target"] = f"{target['name']}/{target['model']}"
    return names


def run_tags(config: Mapping[str, Any]) -> list[str]:
    """Return the tags: task, mode, seed, models, and the user's own, of at most 64 characters, as W&B takes."""
    own = [config["task"]["name"], config["trainer"]["mode"], f"seed-{config['seed']}", *model_names(config).values()]
    return list(dict.fromkeys(tag[:64] for tag in [*own, *config["tracker"].get("tags", [])]))


def run_name(run: RunDir) -> str:
    """Return the name of the run's folder, as long as W&B takes; `experiment_facts` has the whole."""
    return _shortened(run.path.name)


def run_group(run: RunDir, config: Mapping[str, Any]) -> str | None:
    """Return the user's group, or the name of the sweep that contains the run; either may be missing."""
    sweep = _sweep_name(run)
    return config["tracker"].get("group") or (sweep and _shortened(sweep))


def _sweep_name(run: RunDir) -> str | None:
    return next((folder.name for folder in list(run.path.parents)[:3] if (folder / "plan.json").is_file()), None)


def _shortened(name: str) -> str:
    """Return at most 128 characters: what tells names apart is often at the end."""
    return name if len(name) <= _MAX_NAME else f"{name[: _MAX_NAME // 2 - 1]}…{name[-_MAX_NAME // 2 :]}"


_LINEAGE_KEYS = ("base_id", "base_sha256", "parent", "data_sha256", "algorithm", "steps", "seed", "kl", "reward")


@dataclass(frozen=True, slots=True)
class ArtifactVersion:
    """A harness or an adapter. `metadata` names what it was made from; `sha256` in it is the journal's (`build`)."""

    kind: str  # harness | adapter
    folder: Path
    metadata: Json

    def files(self) -> Iterator[tuple[str, Path]]:
        """Yield name and path of every regular file; links are left out, whatever they point at."""
        for path in sorted(self.folder.rglob("*")):
            if path.is_file() and not path.is_symlink():
                yield path.relative_to(self.folder).as_posix(), path


def anonymous_path(run: RunDir, path: Path) -> str:
    """Return a path through the working directory (the run's): wandb sends paths, and none may name this machine."""
    return f"/proc/self/cwd/{path.relative_to(run.path).as_posix()}"


def artifact_versions(run: RunDir, g: GenerationRecord) -> list[ArtifactVersion]:
    """Return the harness of generation `g` of the summary, and the adapter if one was trained for it."""
    folders = run.generation(g.n)
    versions: list[ArtifactVersion] = []
    val = g.val.value if g.val else None
    common = {"generation": g.n, "parent_generation": g.parent, "status": g.status, "lever": g.lever, "val": val}
    if folders.harness.is_dir():
        sha256 = tree_sha256(folders.harness)
        versions.append(ArtifactVersion("harness", folders.harness, common | {"sha256": sha256}))
    if folders.adapter.is_dir() and not folders.adapter.is_symlink() and (folders.adapter / ORIGIN_FILE).is_file():
        origin = read_json(folders.adapter / ORIGIN_FILE)
        lineage = common | {key: origin.get(key) for key in _LINEAGE_KEYS}
        rollouts = int(sum(figures.get("rollouts", 0) for figures in CurveReader(folders).news()))  # to train on
        lineage |= {"rollouts": rollouts, "sha256": tree_sha256(folders.adapter)}
        versions.append(ArtifactVersion("adapter", folders.adapter, lineage))
    return versions
