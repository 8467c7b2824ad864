"""Loading of base models, and the hash that identifies them."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sia_runner.models.policy.ask import PolicyError

_WEIGHTS = ("*.safetensors", "pytorch_model*.bin")
_SHA256 = 64  # hexadecimal digits


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A loaded base. `context` in tokens, prompt and completion together."""

    folder: Path
    model: Any
    tokenizer: Any
    sha256: str
    context: int
    end_ids: frozenset[int]


def load(base: str, device: str, dtype: str) -> Checkpoint:
    """Load a base from a folder, or from the hub by way of transformers' cache. Raises PolicyError."""
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    device = _device(device)  # before anything is read: weights take minutes
    folder = folder_of(base)
    tokenizer = tokenizer_of(base, folder)
    try:
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype), **_trainable(folder))
    except (OSError, ValueError, KeyError) as error:
        raise PolicyError(f"base={base} cannot be loaded: {_line(error)}") from None
    _forget_four_bits(model)
    model.requires_grad_(False).eval()
    model.to(device)  # pyright: ignore[reportArgumentType] - its decorators hide its signature
    context = getattr(model.config.get_text_config(decoder=True), "max_position_embeddings", None)
    if not context:
        raise PolicyError(f"base={base}: its config.json has no max_position_embeddings")
    return Checkpoint(folder, model, tokenizer, weights_sha256(folder), context, _end_ids(model, tokenizer))


def tokenizer_of(base: str, folder: Path) -> Any:
    """Load the tokenizer, with a chat template and a padding token. Raises PolicyError."""
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder)
    except (OSError, ValueError, KeyError) as error:
        raise PolicyError(f"base={base} cannot be loaded: {_line(error)}") from None
    if tokenizer.chat_template is None:
        raise PolicyError(f"base={base} has no chat template: requests are chats; take its instruct variant")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def _trainable(folder: Path) -> dict[str, Any]:
    """Return load options that dequantise gpt-oss's experts from 4 bits (MXFP4), which have no gradients.

    transformers dequantises by itself only where it finds no 4-bit kernels, as on a CPU.
    """
    from transformers import AutoConfig
    from transformers.utils.quantization_config import Mxfp4Config

    quantised = getattr(AutoConfig.from_pretrained(folder), "quantization_config", None) or {}
    if quantised.get("quant_method") != "mxfp4":
        return {}
    excluded = quantised.get("modules_to_not_convert")
    return {"quantization_config": Mxfp4Config(modules_to_not_convert=excluded, dequantize=True)}


def _forget_four_bits(model: Any) -> None:
    """Remove weight conversions to 4 bits before the model is saved.

    transformers saves a model by reversing the conversions of its loading. It would write dequantised experts under the
    names of 4-bit ones, where no loader finds them: a merged model on disk would have random experts.
    """
    conversions = getattr(model, "_weight_conversions", None) or []
    remaining = [
        conversion
        for conversion in conversions
        if not any("_blocks" in source for source in conversion.source_patterns)
    ]
    if len(remaining) < len(conversions):
        model._weight_conversions = remaining


def weights_sha256(folder: Path) -> str:
    """Return a hash of the weight files' names and contents. Raises PolicyError if there are none."""
    files = sorted(file for pattern in _WEIGHTS for file in folder.glob(pattern))
    if not files:
        raise PolicyError(f"{folder} holds no weights ({', '.join(_WEIGHTS)})")
    return hashlib.sha256("".join(f"{file.name} {_sha256(file)}\n" for file in files).encode()).hexdigest()


def _sha256(file: Path) -> str:
    """Hash a file.

    The hub's cache links large files to blobs that are named by their hash, so 63 GB need not be read again.
    """
    blob = file.resolve().name
    if len(blob) == _SHA256 and set(blob) <= set("0123456789abcdef"):
        return blob
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def folder_of(base: str, *, weights: bool = True) -> Path:
    """Return the base's folder; a hub id is downloaded, without its weights if not `weights`. Raises PolicyError."""
    folder = Path(base).expanduser()
    if folder.is_dir():
        return folder
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError

    try:
        patterns = ["*.json", "*.jinja", "*.txt", "*.model", *(["*.safetensors"] if weights else [])]
        return Path(snapshot_download(base, allow_patterns=patterns, ignore_patterns=["*/*"]))
    except (OSError, ValueError, HFValidationError) as error:
        raise PolicyError(f"base={base} is no folder, and no model of the hub: {_line(error)}") from None


def _device(device: str) -> str:
    import torch

    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and not torch.cuda.is_available():
        raise PolicyError("target_agent.policy.device=cuda, but torch sees no GPU; allowed here: auto, cpu")
    return device


def _end_ids(model: Any, tokenizer: Any) -> frozenset[int]:
    """Return the ids of end tokens; chat models may have one for a turn and one for a text."""
    named = model.generation_config.eos_token_id
    ids = named if isinstance(named, list) else [named]
    return frozenset(token for token in (*ids, tokenizer.eos_token_id) if token is not None)


def _line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
