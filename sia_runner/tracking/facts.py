"""The facts that are sent about an experiment as a whole.

They are picked key by key: what is not named here (paths, addresses, headers, key files, commands) never leaves the
machine.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from sia_runner.rundir import RunDir, read_json

Json = dict[str, Any]
_TAG = 64  # characters that W&B takes
_LOCKED = ("sia_runner", "git", "config_sha256", "python", "packages", "data", "policy")


def config_of(run: RunDir) -> Json:
    """Return the run's stored configuration."""
    return yaml.safe_load(run.config.read_text(encoding="utf-8"))


def facts(run: RunDir, config: Mapping[str, Any]) -> Json:
    """Return W&B's `config`, by which runs are filtered and compared."""
    task, target, trainer = config["task"], config["target_agent"], config["trainer"]
    locked, metric = read_json(run.lock), read_json(run.summary)["metric"]
    return {
        "task": task["name"],
        "mode": trainer["mode"],
        "metric": metric["name"],
        "higher_is_better": metric["higher_is_better"],
        "splits": task.get("splits"),
        "seed": config["seed"],
        "split_seed": config["split_seed"],
        "meta_agent": config["meta_agent"]["name"],
        "target_agent": target["name"],
        "models": models(config),
        "trainer": {key: value for key, value in trainer.items() if key != "_target_"},
        "lever": config.get("lever"),
        "search": config["search"],
        "sandbox": config["sandbox"]["name"],
        "compute": config["compute"]["name"],
        "max_gen": config["max_gen"],
        "budget": config["budget"],
        "lock": {key: locked.get(key) for key in _LOCKED},
    }


def models(config: Mapping[str, Any]) -> dict[str, str]:
    """Return role -> model, for the models that the experiment may call."""
    everybody = config["provider"]
    meta = config["meta_agent"].get("provider") or everybody
    target = config["target_agent"].get("provider") or everybody
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


def tags(config: Mapping[str, Any]) -> list[str]:
    """Return the tags: task, mode, seed, models, and the user's own."""
    own = [config["task"]["name"], config["trainer"]["mode"], f"seed-{config['seed']}", *models(config).values()]
    return list(dict.fromkeys(tag[:_TAG] for tag in [*own, *config["tracker"].get("tags", [])]))


def group(run: RunDir, config: Mapping[str, Any]) -> str | None:
    """Return the user's group, or the name of the sweep that contains the run; either may be missing."""
    own_group = config["tracker"].get("group")
    sweeps = [folder for folder in list(run.path.parents)[:3] if (folder / "plan.json").is_file()]
    return own_group or (sweeps[0].name if sweeps else None)
