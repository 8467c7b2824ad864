"""The lock.json of a run: all that a reader needs to know what exactly was run."""

import hashlib
import platform
import socket
import subprocess
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from sia_runner import __version__
from sia_runner.config import Experiment
from sia_runner.rooms import models, rooms
from sia_runner.rundir import RunDir, RunError

PACKAGES = ("hydra-core", "omegaconf", "pydantic", "optuna", "numpy", "scipy", "scikit-learn", "rich", "filelock",
            "litellm", "aiohttp", "openai", "anthropic", "chess",
            "torch", "transformers", "peft", "trl", "accelerate")  # fmt: skip


def lock(config: Experiment, run: RunDir, overrides: Sequence[str]) -> dict[str, Any]:
    """Return the content of lock.json: versions, hashes, seeds and the machine."""
    components = rooms(config)
    return {
        "sia_runner": __version__,
        "git": _git_revision(),
        "config_sha256": hashlib.sha256(config.model_dump_json(by_alias=True).encode()).hexdigest(),
        "overrides": list(overrides),
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "host": socket.gethostname(),
        "packages": {name: version for name in PACKAGES if (version := _version(name))},
        "data": components.task.data_hashes(),
        "policy": _policy(config, run),
        "sandbox": {
            "name": components.sandbox.name,
            **components.sandbox.versions(),
            "gaps": components.sandbox.gaps(door=config.needs_door),
        },
        "seeds": {"seed": config.seed, "split_seed": config.split_seed},
    }


def _policy(config: Experiment, run: RunDir) -> dict[str, str] | None:
    """Return id and hash of the base that the harness calls, for comparing runs; None without a policy."""
    gateway = models(config, run)
    if gateway is None or not config.has_policy:
        return None
    engine = gateway.policy()
    return {"base": engine.base_id, "sha256": engine.base_sha256}


def check_data(config: Experiment, locked: dict[str, Any]) -> None:
    """Raise RunError unless the data is the same as when the run began."""
    hashes = rooms(config).task.data_hashes()
    changed = sorted(name for name in {*hashes, *locked["data"]} if hashes.get(name) != locked["data"].get(name))
    if changed:
        raise RunError(
            f"the data changed since the run began ({', '.join(changed)}); a resumed run needs the same data"
        )


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _git_revision() -> str | None:
    """Return the git revision of the checkout that this package runs from; None for an installed wheel."""
    checkout = Path(__file__).resolve().parents[2]
    if not (checkout / ".git").exists():
        return None
    command = ["git", "-C", str(checkout), "describe", "--always", "--dirty", "--abbrev=40"]
    try:
        process = subprocess.run(command, capture_output=True, text=True, check=False, timeout=5)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return process.stdout.strip() or None
