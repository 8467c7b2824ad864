"""Finding and loading the base model that an adapter belongs to."""

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sia_runner.ground.resources import cache_dir
from sia_runner.training.adapters import Origin
from sia_runner.training.protocol import TrainingError

_TINY = "tiny"


@dataclass(slots=True)
class Base:
    """A loaded base model: what loading and merging need of training.protocol.Policy."""

    model: Any
    tokenizer: Any
    base_id: str
    base_sha256: str


def load_base(origin: Origin, name: str | None = None) -> Base:
    """Load the base of an adapter, or `name` (a folder or hub id) in its place.

    Another base is refused by its hash before any weights are read. Raises TrainingError, PolicyError.
    """
    from sia_runner.models.policy.checkpoint import folder_of, load, weights_sha256

    folder = (
        _tiny(origin.base_sha256) if name is None and origin.base_id == _TINY else folder_of(name or origin.base_id)
    )
    sha256 = weights_sha256(folder)
    if sha256 != origin.base_sha256:
        raise TrainingError(
            f"the adapter is for {origin.base_id} (sha256 {origin.base_sha256[:12]}), "
            f"not for {name or folder} (sha256 {sha256[:12]})"
        )
    warnings.filterwarnings("ignore", message=".*gradient_checkpointing.*deprecated", category=FutureWarning)  # PEFT's
    loaded = load(str(folder), "cpu", _dtype(folder))
    return Base(loaded.model, loaded.tokenizer, name or origin.base_id, sha256)


def _tiny(sha256: str) -> Path:
    """Return the cached folder of a base=tiny by the hash of its weights; the folder's name does not tell it."""
    from sia_runner.models.policy.checkpoint import weights_sha256

    policies = cache_dir() / "policies"
    for folder in sorted(policies.glob("*/")):
        if (folder / "warm.json").is_file() and weights_sha256(folder) == sha256:
            return folder
    raise TrainingError(f"base=tiny with sha256 {sha256[:12]} is not in {policies}; give its folder: --base FOLDER")


def _dtype(folder: Path) -> str:
    """Return the dtype of the saved weights, so that merging does not double a large model."""
    from transformers import AutoConfig

    saved = getattr(AutoConfig.from_pretrained(folder), "dtype", None)
    return str(saved).removeprefix("torch.") if saved is not None else "float32"
