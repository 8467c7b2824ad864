"""The adapter under training, written as a folder for a server to read."""

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

from sia_runner.models.policy.adapters import MARK, WEIGHTS


def is_trained(model: Any) -> bool:
    """Return True if training has put an adapter on the model."""
    return hasattr(model, "peft_config")


def write(model: Any, folder: Path, base_id: str, base_sha256: str) -> None:
    """Write the model's active adapter in PEFT's layout; `folder` is complete or absent."""
    from peft import get_peft_model_state_dict
    from safetensors.torch import save_file

    (name,) = model.active_adapters
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    # "auto" would ask a model hub whether the vocabulary was changed
    state = get_peft_model_state_dict(model, adapter_name=name, save_embedding_layers=False)
    tensors = {key: tensor.detach().cpu().contiguous().clone() for key, tensor in state.items()}
    save_file(tensors, partial / WEIGHTS, metadata={"format": "pt"})
    config = model.peft_config[name].to_dict() | {"inference_mode": True, "base_model_name_or_path": base_id}
    (partial / "adapter_config.json").write_text(json.dumps(config, default=_plain, indent=1) + "\n", encoding="utf-8")
    (partial / MARK).write_text(json.dumps({"base_id": base_id, "base_sha256": base_sha256}) + "\n", encoding="utf-8")
    partial.chmod(0o755)  # the server may run as another user
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)


def _plain(value: Any) -> Any:
    """Convert to JSON: PEFT stores target names as a set."""
    return sorted(value) if isinstance(value, set | frozenset) else str(value)
