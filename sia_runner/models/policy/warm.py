"""Warm-up training of a tiny model: cross entropy on answers, until the held-out loss stops improving."""

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from sia_runner.models.policy.ask import Dialogue, PolicyError
from sia_runner.models.policy.chat import Chat
from sia_runner.schema.training import Tiny

_HELD_OUT, _MOST_HELD_OUT = 0.1, 512  # share and maximum number of dialogues used for early stopping
_BATCH = 32
_POOL = 16  # batches sorted by length together, so that little of a batch is padding
_PATIENCE = 3  # epochs without improvement
_WARMUP = 50  # steps


@dataclass(frozen=True, slots=True)
class Example:
    """A tokenised dialogue."""

    ids: list[int]  # prompt, answer, end mark
    start: int  # where the answer begins


@dataclass(frozen=True, slots=True)
class Warmed:
    """The result of a warm-up.

    `loss`: nats per answer token on held-out dialogues, before training and after each epoch. `epoch`: the one whose
    weights were chosen.
    """

    loss: list[float]
    epoch: int
    stopped: str
    trained: int  # dialogues
    held_out: int
    too_long: int  # excluded: longer than the context

    def as_json(self) -> dict[str, Any]:
        """Return the result as plain data."""
        return asdict(self)


def warm(model: Any, tokenizer: Any, dialogues: Sequence[Dialogue], tiny: Tiny, say: Callable[[str], None]) -> Warmed:
    """Train in place, in float32 on the CPU. Raises PolicyError.

    `model` ends in eval mode with the weights of the best epoch.
    """
    fitting, held_out = _split(_examples(tokenizer, dialogues, tiny.context))
    too_long = len(dialogues) - len(fitting) - len(held_out)
    generator = random.Random(0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=tiny.learning_rate, weight_decay=tiny.weight_decay)
    steps = math.ceil(len(fitting) / _BATCH)
    loss = [_loss(model, held_out)]
    best, weights, stopped = 0, _copy(model), f"all {tiny.epochs} epochs done"
    step = 0
    for epoch in range(1, tiny.epochs + 1):
        model.train()
        for batch in _batches(fitting, generator):
            step += 1
            rate = tiny.learning_rate * _schedule(step, tiny.epochs * steps)
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.zero_grad()
            total, count = _answer_loss(model, batch)
            (total / count).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
        loss.append(_loss(model, held_out))
        if loss[-1] < loss[best]:
            best, weights = epoch, _copy(model)
        elif epoch - best >= _PATIENCE:
            stopped = f"no improvement in {_PATIENCE} epochs"
            break
    model.load_state_dict(weights)
    model.eval()
    say(
        f"policy tiny: warmed on {len(fitting)} dialogues; held-out loss {loss[0]:.3f} -> {loss[best]:.3f} nats a "
        f"token at epoch {best} ({stopped})"
    )
    return Warmed(loss, best, stopped, len(fitting), len(held_out), too_long)


def _schedule(step: int, steps: int) -> float:
    """Return the share of the learning rate: a linear start, then a cosine to a tenth."""
    progress = step / max(steps, 1)
    return min(1.0, step / _WARMUP) * (0.55 + 0.45 * math.cos(math.pi * progress))


def _examples(tokenizer: Any, dialogues: Sequence[Dialogue], context: int) -> list[Example]:
    chat = Chat(tokenizer)
    examples = []
    for dialogue in dialogues:
        prompt_ids = chat.prompt_ids(dialogue.messages)
        answer_ids = tokenizer(dialogue.answer, add_special_tokens=False)["input_ids"]
        examples.append(Example([*prompt_ids, *answer_ids, tokenizer.eos_token_id], len(prompt_ids)))
    return [example for example in examples if len(example.ids) <= context]


def _split(examples: list[Example]) -> tuple[list[Example], list[Example]]:
    """Split into training and held-out examples; those with the same prompt are on the same side."""
    prompts = sorted({tuple(example.ids[: example.start]) for example in examples})
    if len(prompts) < 10:
        raise PolicyError(
            f"base=tiny needs at least 10 different prompts that fit its context to be warmed on; there are "
            f"{len(prompts)} (tiny.context is too small, or the task has no training text)"
        )
    count = min(_MOST_HELD_OUT, max(1, round(_HELD_OUT * len(prompts))))
    chosen = set(random.Random(0).sample(prompts, count))
    sides: tuple[list[Example], list[Example]] = ([], [])
    for example in examples:
        sides[tuple(example.ids[: example.start]) in chosen].append(example)
    return sides


def _batches(examples: Sequence[Example], generator: random.Random) -> list[list[Example]]:
    """Return shuffled batches of examples of similar length."""
    order = generator.sample(examples, len(examples))
    size = _BATCH * _POOL
    pools = [sorted(order[i : i + size], key=lambda example: len(example.ids)) for i in range(0, len(order), size)]
    batches = [pool[i : i + _BATCH] for pool in pools for i in range(0, len(pool), _BATCH)]
    generator.shuffle(batches)
    return batches


def _answer_loss(model: Any, batch: Sequence[Example]) -> tuple[Tensor, int]:
    """Return the summed cross entropy over answer tokens, and their number.

    Rows are padded right. The head, which costs as much as the rest of such a small model, is applied only where an
    answer token follows.
    """
    longest = max(len(example.ids) for example in batch)
    ids_bt = torch.tensor([example.ids + [0] * (longest - len(example.ids)) for example in batch])
    position_bt = torch.arange(longest - 1)[None]
    first_b1 = torch.tensor([[example.start - 1] for example in batch])
    end_b1 = torch.tensor([[len(example.ids) - 1] for example in batch])
    predicts_bt = (position_bt >= first_b1) & (position_bt < end_b1)
    hidden_bth = model.model(input_ids=ids_bt[:, :-1], use_cache=False).last_hidden_state
    logits_nv = model.lm_head(hidden_bth[predicts_bt])
    return cross_entropy(logits_nv, ids_bt[:, 1:][predicts_bt], reduction="sum"), len(logits_nv)


@torch.no_grad()
def _loss(model: Any, examples: Sequence[Example]) -> float:
    model.eval()
    parts = [_answer_loss(model, examples[i : i + _BATCH]) for i in range(0, len(examples), _BATCH)]
    return float(sum(total for total, _ in parts)) / sum(count for _, count in parts)


def _copy(model: Any) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}
