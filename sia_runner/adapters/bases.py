"""Finds the base model that an adapter belongs to, and loads it."""

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
    """See training.protocol.Policy, as far as loading and merging go."""

    model: Any
    tokenizer: Any
    base_id: str
    base_sha256: str


def of(origin: Origin, named: str | None = None) -> Base:
    """`named`: a folder or hub id, instead of the one that the adapter names. It is another base's only where the
    hashes say so, which is found out before any weight is read. Raises TrainingError, PolicyError."""
    from sia_runner.models.policy.checkpoint import folder_of, load, weights_sha256

    folder = (
        _tiny(origin.base_sha256) if named is None and origin.base_id == _TINY else folder_of(named or origin.base_id)
    )
    sha256 = weights_sha256(folder)
    if sha256 != origin.base_sha256:
        raise TrainingError(
            f"the adapter is for {origin.base_id} (sha256 {origin.base_sha256[:12]}), "
            f"not for {named or folder} (sha256 {sha256[:12]})"
        )
    warnings.filterwarnings("ignore", message=".*gradient_checkpointing.*deprecated", category=FutureWarning)  # PEFT's
    loaded = load(str(folder), "cpu", _dtype(folder))
    return Base(loaded.model, loaded.tokenizer, named or origin.base_id, sha256)


def _tiny(sha256: str) -> Path:
    """base=tiny lies in the cache, under a name made of what it was built from; its weights tell which one it is."""
    from sia_runner.models.policy.checkpoint import weights_sha256

    kept = cache_dir() / "policies"
    for folder in sorted(kept.glob("*/")):
        if (folder / "warm.json").is_file() and weights_sha256(folder) == sha256:
            return folder
    raise TrainingError(f"base=tiny with sha256 {sha256[:12]} is not in {kept}; give its folder: --base FOLDER")


def _dtype(folder: Path) -> str:
    """As the weights were saved, so that merging does not double a large model."""
    from transformers import AutoConfig

    saved = getattr(AutoConfig.from_pretrained(folder), "dtype", None)
    return str(saved).removeprefix("torch.") if saved is not None else "float32"
