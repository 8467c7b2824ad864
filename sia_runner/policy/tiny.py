"""The policy `base=tiny`: a small language model and its tokenizer, built here from the task's public training text."""

import hashlib
import json
import re
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sia_runner.config.training import TinyModelConfig
from sia_runner.policy.base_model import CHAT_TEMPLATE, END_TOKEN, PAD_TOKEN, SPECIAL_TOKENS
from sia_runner.wire.policy import WarmupDialogue

_CACHE_FORMAT = 2  # increase it when this code builds something else from the same spec and texts
_SEED = 0  # fixed: one tiny model for a spec and texts, whatever the run's seed


def tiny_base_folder(
    tiny: TinyModelConfig, cache: Path, dialogues: Sequence[WarmupDialogue], say: Callable[[str], None]
) -> Path:
    """Return cache/policies/<key>, a checkpoint and warm.json, built once whoever asks. Raises PolicyError."""
    from filelock import FileLock

    path = cache / "policies" / _cache_key(tiny, dialogues)
    if (path / "warm.json").is_file():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{path}.lock"):
        if not (path / "warm.json").is_file():
            _build_checkpoint(path, tiny, dialogues, say)
    return path


def _cache_key(tiny: TinyModelConfig, dialogues: Sequence[WarmupDialogue]) -> str:
    digest = hashlib.sha256(f"{_CACHE_FORMAT} {tiny.model_dump_json()}\n".encode())
    for dialogue in dialogues:
        messages = [(str(message["role"]), str(message["content"])) for message in dialogue.messages]
        digest.update(json.dumps([messages, dialogue.answer]).encode() + b"\n")
    return digest.hexdigest()[:16]


def _build_checkpoint(
    path: Path, tiny: TinyModelConfig, dialogues: Sequence[WarmupDialogue], say: Callable[[str], None]
) -> None:
    from transformers.utils import logging

    from sia_runner.policy.tiny_warmup import warm_up

    logging.disable_progress_bar()
    say(f"policy tiny: warming on {len(dialogues)} dialogues of the task's training text, once")
    start = time.monotonic()
    tokenizer = learn_tokenizer(dialogues, tiny.vocabulary, tiny.context)
    with _repeatable():
        model = _new_model(tiny, tokenizer)
        warmed = warm_up(model, tokenizer, dialogues, tiny, say)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as temporary:
        partial = Path(temporary, path.name)
        model.save_pretrained(partial)
        tokenizer.save_pretrained(partial)
        report = {"tiny": tiny.model_dump(), **warmed, "seconds": round(time.monotonic() - start, 1)}
        (partial / "warm.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
        partial.rename(path)


def _new_model(tiny: TinyModelConfig, tokenizer: Any) -> Any:
    """Create a model of Qwen3's architecture, with separate embeddings and head, so that an adapter can hold both."""
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
        initializer_range=0.1,  # the usual 0.02 of large models leaves such a small one on a plateau for long
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
    )
    return Qwen3ForCausalLM(config)


@contextmanager
def _repeatable() -> Iterator[None]:
    """Use a fixed seed and one thread, since sums over several differ in their last bits; restore both afterwards."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(_SEED)
            yield
    finally:
        torch.set_num_threads(threads)


_MIN_ANSWER_COUNT = 5  # minimum count of an answer from a closed set, such as a class label, no number: one token


def learn_tokenizer(dialogues: Sequence[WarmupDialogue], vocabulary: int, context: int) -> Any:
    """Return a transformers tokenizer of at most `vocabulary` tokens, plus one for each frequent answer.

    It never has fewer than all bytes and special tokens. Digits are separate tokens, so that a model can calculate.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=max(vocabulary, 256 + len(SPECIAL_TOKENS)),
        min_frequency=2,  # a pair that occurs once is no word
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    answers = [dialogue.answer for dialogue in dialogues]
    prompts = [str(message["content"]) for dialogue in dialogues for message in dialogue.messages]
    tokenizer.train_from_iterator(prompts + answers, trainer)
    frequent = [answer for answer, count in Counter(answers).items() if count >= _MIN_ANSWER_COUNT]
    closed_set = sorted(answer for answer in frequent if not re.search(r"\d", answer))
    tokenizer.add_tokens([AddedToken(answer, normalized=False) for answer in closed_set])
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD_TOKEN,
        eos_token=END_TOKEN,
        additional_special_tokens=[mark for mark in SPECIAL_TOKENS if mark not in (PAD_TOKEN, END_TOKEN)],
        model_max_length=context,
        clean_up_tokenization_spaces=False,
    )
    wrapped.chat_template = CHAT_TEMPLATE
    return wrapped
