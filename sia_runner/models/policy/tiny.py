"""The policy `base=tiny`: a small language model, built here, warmed on the task's public training text, and cached."""

import hashlib
import json
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sia_runner.models.policy.ask import Dialogue
from sia_runner.schema.training import Tiny

_FORMAT = 2  # increase it when this code builds something else from the same spec and texts
_SEED = 0  # fixed: one tiny model for a spec and texts, whatever the run's seed


def folder(tiny: Tiny, cache: Path, dialogues: Sequence[Dialogue], say: Callable[[str], None]) -> Path:
    """Return cache/policies/<key>: a checkpoint in transformers' layout, and warm.json.

    It is built once, also if several processes ask at the same time. Raises PolicyError.
    """
    from filelock import FileLock

    path = cache / "policies" / _key(tiny, dialogues)
    if (path / "warm.json").is_file():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{path}.lock"):
        if not (path / "warm.json").is_file():
            _build(path, tiny, dialogues, say)
    return path


def _key(tiny: Tiny, dialogues: Sequence[Dialogue]) -> str:
    digest = hashlib.sha256(f"{_FORMAT} {tiny.model_dump_json()}\n".encode())
    for dialogue in dialogues:
        messages = [(str(message["role"]), str(message["content"])) for message in dialogue.messages]
        digest.update(json.dumps([messages, dialogue.answer]).encode() + b"\n")
    return digest.hexdigest()[:16]


def _build(path: Path, tiny: Tiny, dialogues: Sequence[Dialogue], say: Callable[[str], None]) -> None:
    from transformers.utils import logging

    from sia_runner.models.policy.tokens import learn
    from sia_runner.models.policy.warm import warm

    logging.disable_progress_bar()
    say(f"policy tiny: warming on {len(dialogues)} dialogues of the task's training text, once")
    start = time.monotonic()
    tokenizer = learn(dialogues, tiny.vocabulary, tiny.context)
    with _repeatable():
        model = _model(tiny, tokenizer)
        warmed = warm(model, tokenizer, dialogues, tiny, say)
    partial = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
    try:
        model.save_pretrained(partial)
        tokenizer.save_pretrained(partial)
        report = {"tiny": tiny.model_dump(), **warmed.as_json(), "seconds": round(time.monotonic() - start, 1)}
        (partial / "warm.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
        partial.chmod(0o755)
        partial.rename(path)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def _model(tiny: Tiny, tokenizer: Any) -> Any:
    """Create a model of Qwen3's architecture.

    Embeddings and head are separate, so that an adapter can hold both. Weights start at 0.1: the usual 0.02 of large
    models leaves such a small one on a plateau for long.
    """
    from transformers import Qwen3Config, Qwen3ForCausalLM

    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=tiny.hidden,
        intermediate_size=tiny.expansion * tiny.hidden,
        num_hidden_layers=tiny.layers,
        num_attention_heads=tiny.heads,
        num_key_value_heads=tiny.heads,
        head_dim=tiny.hidden // tiny.heads,
        max_position_embeddings=tiny.context,
        tie_word_embeddings=False,
        initializer_range=0.1,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
    )
    return Qwen3ForCausalLM(config)


@contextmanager
def _repeatable() -> Iterator[None]:
    """Make results repeatable on one kind of processor: a fixed seed, and one thread.

    Sums over several threads differ in their last bits. The caller's random state is restored afterwards.
    """
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(_SEED)
            yield
    finally:
        torch.set_num_threads(threads)
