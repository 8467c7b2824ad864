"""Adapters on one copy of the base: loaded once, switched by name, and written as a folder for a server."""

import hashlib
import json
import shutil
import tempfile
import warnings
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

from sia_runner.wire.policy import PolicyError

ADAPTER_ORIGIN_FILE = "sia_adapter.json"  # beside the weights: which base they were trained on
BASE_VERSION = "base"  # the version without an adapter
_MAX_LOADED_ADAPTERS = 4  # adapters loaded at the same time
ADAPTER_WEIGHTS_FILE = "adapter_model.safetensors"


class AdapterSwitcher:
    """Holds the model, which PEFT wraps when the first adapter is loaded."""

    def __init__(self, model: Any, base_id: str, base_sha256: str) -> None:
        self.model: Any = model
        self._base_id, self._base_sha256 = base_id, base_sha256
        self._loaded: OrderedDict[str, str] = OrderedDict()  # version -> name in PEFT; the latest used one last
        self._pinned: list[str] = []  # names in PEFT that must not be dropped

    def use(self, folder: Path | None) -> str:
        """Switch to an adapter, or to the base. Returns the version. Raises PolicyError."""
        if folder is None:
            if self._wrapped:
                self.model.base_model.disable_adapter_layers()
            return BASE_VERSION
        version = adapter_version(folder)
        self._forget_missing()
        if version not in self._loaded:
            self._load(folder, version)
        self._loaded.move_to_end(version)
        self.model.base_model.enable_adapter_layers()
        self.model.set_adapter(self._loaded[version], inference_mode=True)
        return version

    def unload(self, folder: Path) -> None:
        """Free an adapter's memory; it is loaded again at its next use."""
        version = adapter_version(folder)
        self._forget_missing()
        if version in self._loaded:
            self._drop(version)

    @contextmanager
    def restored_afterwards(self) -> Iterator[None]:
        """Restore the active adapters, and the parameters under training, when the context ends."""
        if not self._wrapped:
            try:
                yield
            finally:
                self.use(None)
            return
        names, disabled = list(self.model.active_adapters), _has_disabled_layers(self.model)
        trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        self._pinned = names
        try:
            yield
        finally:
            self._pinned = []
            self.model.base_model.enable_adapter_layers()
            self.model.base_model.set_adapter(names, inference_mode=True)
            if disabled:
                self.model.base_model.disable_adapter_layers()
            self.model.requires_grad_(False)
            for parameter in trained:
                parameter.requires_grad_(True)

    @property
    def _wrapped(self) -> bool:
        from peft import PeftModel

        return isinstance(self.model, PeftModel)

    def _load(self, folder: Path, version: str) -> None:
        from peft import PeftModel

        check_adapter_base(folder, self._base_id, self._base_sha256)
        _check_weights_file(folder)  # before PEFT changes the model: a failed load would leave its layers there
        self._evict()
        # PEFT asks transformers by a name that is deprecated there.
        warnings.filterwarnings("ignore", message=".*gradient_checkpointing.*deprecated", category=FutureWarning)
        name = f"served_{version}"
        try:
            if self._wrapped:
                self.model.load_adapter(folder, adapter_name=name, torch_device=str(self.model.device))
            else:
                self.model = PeftModel.from_pretrained(
                    self.model, folder, adapter_name=name, torch_device=str(self.model.device)
                )
        except (OSError, ValueError, RuntimeError, KeyError) as error:
            raise PolicyError(
                f"adapter {folder} cannot be loaded: {(str(error).splitlines() or [''])[0][:200]}"
            ) from None
        self._loaded[version] = name

    def _forget_missing(self) -> None:
        """Forget adapters that are no longer on the model: training may remove the whole PEFT wrapper."""
        present = getattr(self.model, "peft_config", {})
        for version in [version for version, name in self._loaded.items() if name not in present]:
            del self._loaded[version]

    def _evict(self) -> None:
        while len(self._loaded) >= _MAX_LOADED_ADAPTERS:
            self._drop(next(version for version, name in self._loaded.items() if name not in self._pinned))

    def _drop(self, version: str) -> None:
        name = self._loaded.pop(version)
        if set(self.model.peft_config) == {name}:  # PEFT cannot be without any
            self.model = self.model.unload().requires_grad_(False)
        else:
            self.model.delete_adapter(name)


def check_adapter_base(folder: Path, base_id: str, base_sha256: str) -> None:
    """Raise PolicyError, one line, if the adapter was trained on another base or its origin is unknown."""
    try:
        written = json.loads((folder / ADAPTER_ORIGIN_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise PolicyError(
            f"adapter {folder}: {ADAPTER_ORIGIN_FILE} cannot be read, so its base is unknown ({error})"
        ) from None
    if written.get("base_sha256") != base_sha256:
        raise PolicyError(
            f"adapter {folder} was trained on {written.get('base_id')} ({str(written.get('base_sha256'))[:12]}), "
            f"not on {base_id} ({base_sha256[:12]})"
        )


def adapter_version(folder: Path) -> str:
    """Return the hash of the adapter's weights: equal for copies, different after a change. Raises PolicyError."""
    weights = folder / ADAPTER_WEIGHTS_FILE
    try:
        status = weights.stat()
        return _file_hash(weights, status.st_mtime_ns, status.st_size, status.st_ino)
    except OSError as error:
        raise PolicyError(f"adapter {folder} cannot be read: {error.strerror or error}") from None


@lru_cache(maxsize=64)
def _file_hash(weights: Path, *_written: int) -> str:
    """Hash a file; cached, since every batch asks. The status arguments change when the file does."""
    return hashlib.sha256(weights.read_bytes()).hexdigest()[:16]


def _check_weights_file(folder: Path) -> None:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(folder / ADAPTER_WEIGHTS_FILE, framework="pt") as tensors:
            tensors.keys()
    except (OSError, SafetensorError) as error:
        raise PolicyError(f"adapter {folder}: {ADAPTER_WEIGHTS_FILE} cannot be read: {error}") from None


def _has_disabled_layers(model: Any) -> bool:
    from peft.tuners.tuners_utils import BaseTunerLayer

    return any(layer.disable_adapters for layer in model.modules() if isinstance(layer, BaseTunerLayer))


def has_adapter(model: Any) -> bool:
    """Return True if training has put an adapter on the model."""
    return hasattr(model, "peft_config")


def write_live_adapter(model: Any, folder: Path, base_id: str, base_sha256: str) -> None:
    """Write the model's active adapter in PEFT's layout; `folder` is complete or absent."""
    from peft import get_peft_model_state_dict
    from safetensors.torch import save_file

    (name,) = model.active_adapters
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    # "auto" would ask a model hub whether the vocabulary was changed
    state = get_peft_model_state_dict(model, adapter_name=name, save_embedding_layers=False)
    tensors = {key: tensor.detach().cpu().contiguous().clone() for key, tensor in state.items()}
    save_file(tensors, partial / ADAPTER_WEIGHTS_FILE, metadata={"format": "pt"})
    config = model.peft_config[name].to_dict() | {"inference_mode": True, "base_model_name_or_path": base_id}
    (partial / "adapter_config.json").write_text(
        json.dumps(config, default=_json_default, indent=1) + "\n", encoding="utf-8"
    )
    (partial / ADAPTER_ORIGIN_FILE).write_text(
        json.dumps({"base_id": base_id, "base_sha256": base_sha256}) + "\n", encoding="utf-8"
    )
    partial.chmod(0o755)  # the server may run as another user
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)


def _json_default(value: Any) -> Any:
    """Convert to JSON: PEFT stores target names as a set."""
    return sorted(value) if isinstance(value, set | frozenset) else str(value)
