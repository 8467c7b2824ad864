"""Adapters on one copy of the base: loaded once, and switched by name."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sia_runner.text import first_line
from sia_runner.wire.adapter_files import (
    ORIGIN_FILE,
    WEIGHTS_FILE,
    active_adapters,
    adapter_sha256,
    load_peft_adapter,
    why_not_this_base,
)
from sia_runner.wire.policy import PolicyError

BASE_VERSION = "base"  # the version without an adapter
# Serves an adapter at a server and returns its version; is given a function that writes it to a folder.
ServeAdapter = Callable[[Callable[[Path], None]], str]
_MAX_LOADED_ADAPTERS = 4  # adapters loaded at the same time


class AdapterSwitcher:
    """Holds the model, which PEFT wraps when the first adapter is loaded."""

    def __init__(self, model: Any, base_id: str, base_sha256: str, *, trust_base: bool = False) -> None:
        self.model: Any = model
        self._base_id, self._base_sha256, self._trust_base = base_id, base_sha256, trust_base
        self._loaded: list[str] = []  # names in PEFT; the latest used one last
        self._pinned: list[str] = []  # names in PEFT that must not be dropped

    def use(self, folder: Path | None) -> str:
        """Switch to an adapter, or to the base. Returns the version. Raises PolicyError."""
        if folder is None:
            if active_adapters(self.model) is not None:
                self.model.base_model.disable_adapter_layers()
            return BASE_VERSION
        version = adapter_version(folder)
        name = f"served_{version}"
        # Training may remove the whole PEFT wrapper, and with it all adapters.
        self._loaded = [other for other in self._loaded if other in getattr(self.model, "peft_config", {})]
        if name in self._loaded:
            self._loaded.remove(name)
        else:
            self._load(folder, name)
        self._loaded.append(name)
        self.model.base_model.enable_adapter_layers()
        self.model.set_adapter(name, inference_mode=True)
        return version

    @contextmanager
    def restored_afterwards(self) -> Iterator[None]:
        """Restore the active adapters, and the parameters under training, when the context ends."""
        active = active_adapters(self.model)
        if active is None:
            try:
                yield
            finally:
                self.use(None)
            return
        names, disabled = active
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

    def _load(self, folder: Path, name: str) -> None:
        from safetensors import SafetensorError, safe_open

        check_adapter_base(folder, self._base_id, self._base_sha256, trust_base=self._trust_base)
        try:  # before PEFT changes the model: a failed load would leave its layers there
            with safe_open(folder / WEIGHTS_FILE, framework="pt") as tensors:
                tensors.keys()
        except (OSError, SafetensorError) as error:
            raise PolicyError(f"adapter {folder}: {WEIGHTS_FILE} cannot be read: {error}") from None
        while len(self._loaded) >= _MAX_LOADED_ADAPTERS:
            oldest = next(other for other in self._loaded if other not in self._pinned)
            self._loaded.remove(oldest)
            self.model.delete_adapter(oldest)
        try:
            self.model = load_peft_adapter(self.model, folder, name)
        except (OSError, ValueError, RuntimeError, KeyError) as error:
            raise PolicyError(f"adapter {folder} cannot be loaded: {first_line(error)}") from None


def check_adapter_base(folder: Path, base_id: str, base_sha256: str, *, trust_base: bool | None = None) -> None:
    """Raise PolicyError, one line, if the adapter was trained on another base or its origin is unknown."""
    try:
        written = json.loads((folder / ORIGIN_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise PolicyError(f"adapter {folder}: {ORIGIN_FILE} cannot be read, so its base is unknown ({error})") from None
    if reason := why_not_this_base(written, base_id, base_sha256, trust_base=trust_base):
        raise PolicyError(f"adapter {folder} {reason}")


def adapter_version(folder: Path) -> str:
    """Return 16 hex digits of the hash of the adapter's weights. Raises PolicyError."""
    try:
        return adapter_sha256(folder)[:16]
    except OSError as error:
        raise PolicyError(f"adapter {folder} cannot be read: {error.strerror or error}") from None
