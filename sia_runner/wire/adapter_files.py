"""An adapter on disk: what PEFT and vLLM read, and `sia_adapter.json`, with its base and origin."""

import hashlib
import json
import shutil
import tempfile
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from sia_runner.errors import TrainingError
from sia_runner.text import first_line

ORIGIN_FILE = "sia_adapter.json"
WEIGHTS_FILE = "adapter_model.safetensors"
CONFIG_FILE = "adapter_config.json"
# What every version of PEFT, and vLLM, reads.
_KEYS = ("base_model_name_or_path", "inference_mode", "lora_alpha", "peft_type", "r", "target_modules", "task_type")


@dataclass(frozen=True, slots=True)
class AdapterOrigin:
    """The origin of an adapter, as its `sia_adapter.json` has it; hashes are sha256 in hex."""

    base_id: str
    base_sha256: str
    lora: Mapping[str, Any]
    data_sha256: str  # of the trajectories trained on, in order
    algorithm: str
    steps: int
    seed: int
    kl: float | None  # nats per completion to the base, at the last step; None: not measured
    reward: float | None  # mean, at the last step
    parent: str | None  # sha256 of the adapter it started from
    service: Mapping[str, Any] | None = None  # where and how a service trained it; None: it was trained here


def read_adapter_origin(path: Path) -> AdapterOrigin:
    """Read `sia_adapter.json`. Raises TrainingError if the adapter is missing or incomplete."""
    missing = [name for name in (ORIGIN_FILE, CONFIG_FILE, WEIGHTS_FILE) if not (path / name).is_file()]
    if missing:
        raise TrainingError(f"{path} is no adapter of ours: {missing[0]} is missing")
    try:
        return AdapterOrigin(**json.loads((path / ORIGIN_FILE).read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise TrainingError(f"{path / ORIGIN_FILE} cannot be read: {first_line(error)}") from error


def why_not_this_base(written: Mapping[str, Any], base: str, sha256: str, *, trust_base: bool | None = None) -> str:
    """Return why an adapter with this origin is not for a base, in one line; empty if it is for it.

    A service tells no hash of its weights, so only the user can vouch that a base here is the same: `trust_base`. None:
    nothing here can be vouched for. An adapter that was trained here is never taken on trust.
    """
    own, its = sha256, str(written.get("base_sha256"))
    if own == its or (trust_base and written.get("service")):
        return ""
    if written.get("service") and trust_base is not None:
        return (
            f"was trained by a service on {written.get('base_id')}, whose weights were never here; if {base} has the "
            "same, say so: target_agent.policy.trust_base=true (the command adapters: --trust-base)"
        )
    return f"is for {written.get('base_id')} (sha256 {its[:12]}), not for {base} (sha256 {own[:12]})"


def adapter_sha256(folder: Path) -> str:
    """Return the sha256 of an adapter's weights, in hex: equal for copies. Raises OSError."""
    weights = folder / WEIGHTS_FILE
    status = weights.stat()
    return _file_sha256(weights, status.st_mtime_ns, status.st_size, status.st_ino)


@lru_cache(maxsize=64)
def _file_sha256(file: Path, *_written: int) -> str:
    """Hash a file; cached, since every batch asks. The status arguments change when the file does."""
    return hashlib.sha256(file.read_bytes()).hexdigest()


def adapter_state(model: Any, name: str) -> dict[str, Any]:
    """Return the tensors of the model's adapter `name`, by PEFT's names on disk."""
    from peft import get_peft_model_state_dict

    # "auto" would ask a model hub whether the vocabulary was changed.
    return get_peft_model_state_dict(model, adapter_name=name, save_embedding_layers=False)


def write_adapter(model: Any, name: str, out: Path, origin: Mapping[str, Any]) -> None:
    """Write the model's adapter `name`; the folder `out` is complete or absent, and replaces an earlier one."""
    from safetensors.torch import save_file

    out.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    state = adapter_state(model, name)
    tensors = {key: tensor.detach().cpu().contiguous().clone() for key, tensor in state.items()}
    save_file(tensors, folder / WEIGHTS_FILE, metadata={"format": "pt"})
    (folder / CONFIG_FILE).write_text(json.dumps(_peft_config(model.peft_config[name], origin["base_id"]), indent=1))
    (folder / ORIGIN_FILE).write_text(json.dumps(origin, indent=1) + "\n", encoding="utf-8")
    folder.chmod(0o755)  # mkdtemp's 0700 would hide it from a server of another user
    shutil.rmtree(out, ignore_errors=True)  # an earlier attempt at the same step
    folder.rename(out)


def _peft_config(config: Any, base_id: str) -> dict[str, Any]:
    """Return PEFT's config as JSON data, without keys that have their default: an earlier PEFT refuses unknown ones."""
    own, default = config.to_dict(), type(config)().to_dict()
    own |= {"inference_mode": True, "base_model_name_or_path": base_id}
    settings = {key: value for key, value in own.items() if key in _KEYS or value != default.get(key)}
    # a set's order differs between processes, and so would our hash
    return {key: sorted(value) if isinstance(value, set) else value for key, value in sorted(settings.items())}


def load_peft_adapter(model: Any, folder: Path, name: str, *, trainable: bool = False) -> Any:
    """Load the adapter in `folder` onto the model as `name`; return PEFT's model."""
    from peft import PeftModel

    # PEFT asks transformers by a name that is deprecated there.
    warnings.filterwarnings("ignore", message=".*gradient_checkpointing.*deprecated", category=FutureWarning)
    settings: dict[str, Any] = {"is_trainable": trainable, "torch_device": str(model.device)}
    if not isinstance(model, PeftModel):
        return PeftModel.from_pretrained(model, str(folder), adapter_name=name, **settings)
    model.load_adapter(str(folder), adapter_name=name, **settings)
    return model


def active_adapters(model: Any) -> tuple[list[str], bool] | None:
    """Return the names of the active adapters and whether their layers are disabled; None for a bare model."""
    from peft import PeftModel
    from peft.tuners.tuners_utils import BaseTunerLayer

    if not isinstance(model, PeftModel):
        return None
    layers = (layer for layer in model.modules() if isinstance(layer, BaseTunerLayer))
    return list(model.active_adapters), any(layer.disable_adapters for layer in layers)
