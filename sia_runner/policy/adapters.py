"""Adapters on one copy of the base: loaded once, and switched by name."""

import json
import warnings
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sia_runner.text import first_line
from sia_runner.wire.adapter_files import ORIGIN_FILE, WEIGHTS_FILE, adapter_sha256
from sia_runner.wire.policy import PolicyError

BASE_VERSION = "base"  # the version without an adapter
_MAX_LOADED_ADAPTERS = 4  # adapters loaded at the same time


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
            raise PolicyError(f"adapter {folder} cannot be loaded: {first_line(error)}") from None
        self._loaded[version] = name

    def _forget_missing(self) -> None:
        """Forget adapters that are no longer on the model: training may remove the whole PEFT wrapper."""
        present = getattr(self.model, "peft_config", {})
        for version in [version for version, name in self._loaded.items() if name not in present]:
            del self._loaded[version]

    def _evict(self) -> None:
        while len(self._loaded) >= _MAX_LOADED_ADAPTERS:
            version = next(version for version, name in self._loaded.items() if name not in self._pinned)
            self.model.delete_adapter(self._loaded.pop(version))


def check_adapter_base(folder: Path, base_id: str, base_sha256: str) -> None:
    """Raise PolicyError, one line, if the adapter was trained on another base or its origin is unknown."""
    try:
        written = json.loads((folder / ORIGIN_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise PolicyError(f"adapter {folder}: {ORIGIN_FILE} cannot be read, so its base is unknown ({error})") from None
    if written.get("base_sha256") != base_sha256:
        raise PolicyError(
            f"adapter {folder} was trained on {written.get('base_id')} ({str(written.get('base_sha256'))[:12]}), "
            f"not on {base_id} ({base_sha256[:12]})"
        )


def adapter_version(folder: Path) -> str:
    """Return 16 hex digits of the hash of the adapter's weights. Raises PolicyError."""
    try:
        return adapter_sha256(folder)[:16]
    except OSError as error:
        raise PolicyError(f"adapter {folder} cannot be read: {error.strerror or error}") from None


def _check_weights_file(folder: Path) -> None:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(folder / WEIGHTS_FILE, framework="pt") as tensors:
            tensors.keys()
    except (OSError, SafetensorError) as error:
        raise PolicyError(f"adapter {folder}: {WEIGHTS_FILE} cannot be read: {error}") from None


def _has_disabled_layers(model: Any) -> bool:
    from peft.tuners.tuners_utils import BaseTunerLayer

    return any(layer.disable_adapters for layer in model.modules() if isinstance(layer, BaseTunerLayer))


def has_adapter(model: Any) -> bool:
    """Return True if training has put an adapter on the model."""
    return hasattr(model, "peft_config")
