"""Warming a tiny model: supervised cross entropy on answers, until held-out loss stops improving."""

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

_HELD_OUT, _MOST_HELD_OUT = 0.1, 512  # share and number of dialogues that only tell when to stop
_BATCH = 32
_POOL = 16  # batches sorted by length together, so that little of a batch is padding
_PATIENCE = 3  # epochs without improvement
_WARMUP = 50  # steps


@dataclass(frozen=True, slots=True)
class Example:
    ids: list[int]  # prompt, answer, end mark
    start: int  # where the answer begins


@dataclass(frozen=True, slots=True)
class Warmed:
    """`loss`: nats per answer token on held-out dialogues, before training and after each epoch. `epoch`: the one whose
    weights were kept."""

    loss: list[float]
    epoch: int
    stopped: str
    trained: int  # dialogues
    held_out: int
    too_long: int  # left out: longer than the context

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def warm(model: Any, tokenizer: Any, dialogues: Sequence[Dialogue], tiny: Tiny, say: Callable[[str], None]) -> Warmed:
    """Train in place, in float32 on the CPU; `model` ends in eval mode with the weights of the best epoch. Raises
    PolicyError."""
    fitting, held_out = _split(_examples(tokenizer, dialogues, tiny.context))
    too_long = len(dialogues) - len(fitting) - len(held_out)
    dice = random.Random(0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=tiny.learning_rate, weight_decay=tiny.weight_decay)
    steps = math.ceil(len(fitting) / _BATCH)
    loss = [_loss(model, held_out)]
    best, kept, stopped = 0, _copy(model), f"all {tiny.epochs} epochs done"
    done = 0
    for epoch in range(1, tiny.epochs + 1):
        model.train()
        for batch in _batches(fitting, dice):
            done += 1
            rate = tiny.learning_rate * _schedule(done, tiny.epochs * steps)
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.zero_grad()
            total, count = _answer_loss(model, batch)
            (total / count).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
        loss.append(_loss(model, held_out))
        if loss[-1] < loss[best]:
            best, kept = epoch, _copy(model)
        elif epoch - best >= _PATIENCE:
            stopped = f"no improvement in {_PATIENCE} epochs"
            break
    model.load_state_dict(kept)
    model.eval()
    say(
        f"policy tiny: warmed on {len(fitting)} dialogues; held-out loss {loss[0]:.3f} -> {loss[best]:.3f} nats a "
        f"token at epoch {best} ({stopped})"
    )
    return Warmed(loss, best, stopped, len(fitting), len(held_out), too_long)


def _schedule(step: int, steps: int) -> float:
    """A linear start, then a cosine to a tenth: share of the learning rate."""
    progress = step / max(steps, 1)
    return min(1.0, step / _WARMUP) * (0.55 + 0.45 * math.cos(math.pi * progress))


def _examples(tokenizer: Any, dialogues: Sequence[Dialogue], context: int) -> list[Example]:
    chat = Chat(tokenizer)
    found = []
    for dialogue in dialogues:
        prompt_ids = chat.prompt_ids(dialogue.messages)
        answer_ids = tokenizer(dialogue.answer, add_special_tokens=False)["input_ids"]
        found.append(Example([*prompt_ids, *answer_ids, tokenizer.eos_token_id], len(prompt_ids)))
    return [example for example in found if len(example.ids) <= context]


def _split(examples: list[Example]) -> tuple[list[Example], list[Example]]:
    """Those with the same prompt are on the same side."""
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


def _batches(examples: Sequence[Example], dice: random.Random) -> list[list[Example]]:
    """Shuffled; examples of about the same length together."""
    order = dice.sample(examples, len(examples))
    size = _BATCH * _POOL
    pools = [sorted(order[i : i + size], key=lambda example: len(example.ids)) for i in range(0, len(order), size)]
    batches = [pool[i : i + _BATCH] for pool in pools for i in range(0, len(pool), _BATCH)]
    dice.shuffle(batches)
    return batches


def _answer_loss(model: Any, batch: Sequence[Example]) -> tuple[Tensor, int]:
    """Summed cross entropy over answer tokens, and their number. Padded on the right, behind all that is predicted; the
    head, which costs as much as the rest of a model this small, is applied where an answer's token follows only."""
    longest = max(len(example.ids) for example in batch)
    ids_bt = torch.tensor([example.ids + [0] * (longest - len(example.ids)) for example in batch])
    place_bt = torch.arange(longest - 1)[None]
    first_b1 = torch.tensor([[example.start - 1] for example in batch])
    end_b1 = torch.tensor([[len(example.ids) - 1] for example in batch])
    predicts_bt = (place_bt >= first_b1) & (place_bt < end_b1)
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
