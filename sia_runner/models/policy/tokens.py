"""The tiny model's tokenizer: byte-level BPE learned on the task's text, so that any text has tokens."""

import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

from sia_runner.models.policy.ask import Dialogue
from sia_runner.models.policy.chat import END, MARKS, PAD, TEMPLATE

_BYTES = 256
_DIGIT = re.compile(r"\d")
_SEEN = 2  # a pair that occurs once is no word
_CLOSED = 5  # an answer given so often is one of a closed set, as a class is: it is drawn at once, not spelled


def learn(dialogues: Sequence[Dialogue], vocabulary: int, context: int) -> Any:
    """A transformers tokenizer of at most `vocabulary` tokens (never fewer than all bytes and marks; a small text
    gives fewer), and one more for each answer that is given often. Digits stand alone: a number that is one token
    cannot be calculated with."""
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
    made = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=END,
        additional_special_tokens=[mark for mark in MARKS if mark not in (PAD, END)],
        model_max_length=context,
        clean_up_tokenization_spaces=False,
    )
    made.chat_template = TEMPLATE
    return made


def _texts(dialogues: Sequence[Dialogue]) -> list[str]:
    said = [str(message["content"]) for dialogue in dialogues for message in dialogue.messages]
    return said + [dialogue.answer for dialogue in dialogues]


def _often(dialogues: Sequence[Dialogue]) -> list[str]:
    """Answers of a closed set, but for those of digits."""
    counted = Counter(dialogue.answer for dialogue in dialogues)
    return sorted(answer for answer, count in counted.items() if count >= _CLOSED and not _DIGIT.search(answer))
