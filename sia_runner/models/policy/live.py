"""The adapter under training as a folder, for a server that reads it."""

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

from sia_runner.models.policy.adapters import MARK, WEIGHTS


def is_trained(model: Any) -> bool:
    """Has training put an adapter on it?"""
    return hasattr(model, "peft_config")


def write(model: Any, folder: Path, base_id: str, base_sha256: str) -> None:
    """PEFT's layout, whole or not there: the adapter of `model` that is active, as it is now."""
    from peft import get_peft_model_state_dict
    from safetensors.torch import save_file

    (name,) = model.active_adapters
    folder.parent.mkdir(parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    # "auto" would ask a model hub whether the vocabulary was changed
    state = get_peft_model_state_dict(model, adapter_name=name, save_embedding_layers=False)
    tensors = {key: tensor.detach().cpu().contiguous().clone() for key, tensor in state.items()}
    save_file(tensors, made / WEIGHTS, metadata={"format": "pt"})
    config = model.peft_config[name].to_dict() | {"inference_mode": True, "base_model_name_or_path": base_id}
    (made / "adapter_config.json").write_text(json.dumps(config, default=_plain, indent=1) + "\n", encoding="utf-8")
    (made / MARK).write_text(json.dumps({"base_id": base_id, "base_sha256": base_sha256}) + "\n", encoding="utf-8")
    made.chmod(0o755)  # the server may run as another user
    shutil.rmtree(folder, ignore_errors=True)
    made.rename(folder)


def _plain(value: Any) -> Any:
    """PEFT keeps target names as a set."""
    return sorted(value) if isinstance(value, set | frozenset) else str(value)
