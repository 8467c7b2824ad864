"""The facts about an experiment that are sent. Anything else (paths, addresses, keys…) never leaves the machine."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from sia_runner.records import Json
from sia_runner.store.generations import GenerationRecord
from sia_runner.store.run_directory import RunDir, read_json, tree_sha256
from sia_runner.tracking.rows import CurveReader
from sia_runner.wire.adapter_files import ORIGIN_FILE

_MAX_NAME = 128  # characters
_LOCK_KEYS = ("sia_runner", "git", "config_sha256", "python", "packages", "data", "policy")


def experiment_facts(run: RunDir, config: Mapping[str, Any]) -> Json:
    """Return W&B's `config`, by which runs are filtered and compared."""
    task, trainer = config["task"], config["trainer"]
    locked, summary = read_json(run.lock), read_json(run.summary)
    metric = summary["metric"]
    return {
        "run": run.path.name,
        "sweep": _sweep_name(run),
        "task": task["name"],
        "mode": summary["mode"],
        "directed": count_directions(summary),
        "metric": metric["name"],
        "higher_is_better": metric["higher_is_better"],
        "splits": task.get("splits"),
        **{key: config[key] for key in ("seed", "split_seed", "search", "max_gen", "budget")},
        **{key: config[key]["name"] for key in ("meta_agent", "target_agent", "sandbox", "compute")},
        "models": model_names(config),
        "trainer": {key: value for key, value in trainer.items() if key != "_target_"},
        "lever": config.get("lever"),
        "control": _control_facts(config.get("control")),
        "lock": {key: locked.get(key) for key in _LOCK_KEYS},
    }


def model_names(config: Mapping[str, Any]) -> dict[str, str]:
    """Return role -> model, for the models that the experiment may call."""
    meta, target = config["meta_agent"].get("provider"), config["target_agent"].get("provider")
    meta, target = meta or config["provider"], target or config["provider"]
    kind, trained = config["target_agent"]["kind"], config["trainer"]["kind"] != "none"
    names: dict[str, str] = {}
    if "provider" in config["meta_agent"] and meta.get("model"):
        models = config["search"].get("proposer_models") or [meta["model"]]
        names["meta"] = f"{meta['name']}/{'+'.join(models)}"
    if kind == "policy" or (kind == "auto" and trained):
        base = config["target_agent"]["policy"]["base"]
        names["target"] = Path(base).name if base.startswith((".", "/", "~")) else base
    elif kind in ("auto", "model") and target.get("model"):
        names["target"] = f"{target['name']}/{target['model']}"
    return names


def _control_facts(control: Mapping[str, Any] | None) -> Json | None:
    """Return arm and budget of a control arm; the path of the run that it is compared with is not sent."""
    return {key: control.get(key) for key in ("arm", "source", "usd", "tokens", "seconds")} if control else None


def count_directions(summary: Mapping[str, Any]) -> int:
    """Return the number of notes by which a person steered the run; their words are not sent."""
    return len(summary.get("directions") or ())


def run_tags(config: Mapping[str, Any], mode: str, directed: int = 0) -> list[str]:
    """Return the tags: task, mode, seed, models, `directed`, and the user's own, of at most 64 characters each."""
    own = [config["task"]["name"], mode, f"seed-{config['seed']}", *model_names(config).values()]
    own += ["directed"] if directed else []
    return list(dict.fromkeys(tag[:64] for tag in [*own, *config["tracker"].get("tags", [])]))


def run_group(run: RunDir, config: Mapping[str, Any]) -> str | None:
    """Return the user's group, or the name of the sweep that contains the run; either may be missing."""
    sweep = _sweep_name(run)
    return config["tracker"].get("group") or (sweep and shorten(sweep))


def _sweep_name(run: RunDir) -> str | None:
    return next((folder.name for folder in list(run.path.parents)[:3] if (folder / "plan.json").is_file()), None)


def shorten(name: str) -> str:
    """Return at most 128 characters, as W&B takes: what tells names apart is often at the end."""
    return name if len(name) <= _MAX_NAME else f"{name[: _MAX_NAME // 2 - 1]}…{name[-_MAX_NAME // 2 :]}"


_LINEAGE_KEYS = ("base_id", "base_sha256", "parent", "data_sha256", "algorithm", "steps", "seed", "kl", "reward")


def anonymous_path(run: RunDir, path: Path) -> str:
    """Return a path through the working directory (the run's): wandb sends paths, and none may name this machine."""
    return f"/proc/self/cwd/{path.relative_to(run.path).as_posix()}"


def artifact_versions(run: RunDir, g: GenerationRecord) -> Iterator[tuple[str, Path, Json]]:
    """Yield kind, folder and origin of the harness of generation `g`, and of the adapter if one was trained for it."""
    folders, val = run.generation(g.n), g.val.value if g.val else None
    common = {"generation": g.n, "parent_generation": g.parent, "status": g.status, "lever": g.lever, "val": val}
    if folders.harness.is_dir():
        yield "harness", folders.harness, common | {"sha256": tree_sha256(folders.harness)}  # as the journal's `build`
    if folders.adapter.is_dir() and not folders.adapter.is_symlink() and (folders.adapter / ORIGIN_FILE).is_file():
        origin = read_json(folders.adapter / ORIGIN_FILE)
        lineage = common | {key: origin.get(key) for key in _LINEAGE_KEYS}
        rollouts = int(sum(figures.get("rollouts", 0) for figures in CurveReader(folders).news()))  # to train on
        yield "adapter", folders.adapter, lineage | {"rollouts": rollouts, "sha256": tree_sha256(folders.adapter)}
