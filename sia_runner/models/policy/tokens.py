"""The tiny model's tokenizer: byte-level BPE learned from the task's text, so every text can be encoded."""

import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

from sia_runner.models.policy.ask import Dialogue
from sia_runner.models.policy.chat import END, MARKS, PAD, TEMPLATE

_BYTES = 256
_DIGIT = re.compile(r"\d")
_SEEN = 2  # minimum count of a merged pair: one that occurs once is no word
_CLOSED = 5  # minimum count of an answer from a closed set, such as a class label: it gets one token


def learn(dialogues: Sequence[Dialogue], vocabulary: int, context: int) -> Any:
    """Return a transformers tokenizer of at most `vocabulary` tokens, plus one for each frequent answer.

    It never has fewer than all bytes and special tokens; a small text gives fewer tokens than `vocabulary`. Digits are
    separate tokens: a model cannot calculate with a number that is one token.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=max(vocabulary, _BYTES + len(MARKS)),
        min_frequency=_SEEN,
        special_tokens=list(MARKS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_texts(dialogues), trainer)
    tokenizer.add_tokens([AddedToken(answer, normalized=False) for answer in _often(dialogues)])
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=END,
        additional_special_tokens=[mark for mark in MARKS if mark not in (PAD, END)],
        model_max_length=context,
        clean_up_tokenization_spaces=False,
    )
    wrapped.chat_template = TEMPLATE
    return wrapped


def _texts(dialogues: Sequence[Dialogue]) -> list[str]:
    contents = [str(message["content"]) for dialogue in dialogues for message in dialogue.messages]
    return contents + [dialogue.answer for dialogue in dialogues]


def _often(dialogues: Sequence[Dialogue]) -> list[str]:
    """Return frequent answers, which form a closed set; answers with digits are left out."""
    counted = Counter(dialogue.answer for dialogue in dialogues)
    return sorted(answer for answer, count in counted.items() if count >= _CLOSED and not _DIGIT.search(answer))
