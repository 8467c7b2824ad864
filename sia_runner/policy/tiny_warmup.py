"""Warm-up training of a tiny model: cross entropy on answers, until the held-out loss stops improving."""

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from sia_runner.config.training import TinyModelConfig
from sia_runner.policy.base_model import ChatTokenizer
from sia_runner.wire.policy import PolicyError, WarmupDialogue

_HELD_OUT, _MAX_HELD_OUT = 0.1, 512  # share and maximum number of dialogues used for early stopping
_BATCH = 32
_BATCHES_PER_POOL = 16  # batches sorted by length together, so that little of a batch is padding
_PATIENCE = 3  # epochs without improvement
_WARMUP_STEPS = 50  # steps


@dataclass(frozen=True, slots=True)
class _Example:
    ids: list[int]  # prompt, answer, end mark
    start: int  # where the answer begins


def warm_up(
    model: Any, tokenizer: Any, dialogues: Sequence[WarmupDialogue], tiny: TinyModelConfig, say: Callable[[str], None]
) -> dict[str, Any]:
    """Train in place, in float32 on the CPU, and keep the best epoch, in eval mode. Raises PolicyError.

    Return what warm.json says, with `loss` in nats per answer token on held-out dialogues, at first and after each
    epoch. Dialogues longer than the context are excluded.
    """
    fitting, held_out = _split(_examples(tokenizer, dialogues, tiny.context))
    too_long = len(dialogues) - len(fitting) - len(held_out)
    generator = random.Random(0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=tiny.learning_rate, weight_decay=tiny.weight_decay)
    steps = tiny.epochs * math.ceil(len(fitting) / _BATCH)
    loss = [_held_out_loss(model, held_out)]
    best, weights, stopped = 0, _copy(model), f"all {tiny.epochs} epochs done"
    step = 0
    for epoch in range(1, tiny.epochs + 1):
        model.train()
        for batch in _batches(fitting, generator):
            step += 1
            # A linear start, then a cosine to a tenth.
            share = min(1.0, step / _WARMUP_STEPS) * (0.55 + 0.45 * math.cos(math.pi * (step / max(steps, 1))))
            optimizer.param_groups[0]["lr"] = tiny.learning_rate * share
            optimizer.zero_grad()
            total, count = _answer_loss(model, batch)
            (total / count).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
        loss.append(_held_out_loss(model, held_out))
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
    counts = {"trained": len(fitting), "held_out": len(held_out), "too_long": too_long}
    return {"loss": loss, "epoch": best, "stopped": stopped, **counts}


def _examples(tokenizer: Any, dialogues: Sequence[WarmupDialogue], context: int) -> list[_Example]:
    chat = ChatTokenizer(tokenizer)
    examples = []
    for dialogue in dialogues:
        prompt_ids = chat.prompt_ids(dialogue.messages)
        answer_ids = tokenizer(dialogue.answer, add_special_tokens=False)["input_ids"]
        examples.append(_Example([*prompt_ids, *answer_ids, tokenizer.eos_token_id], len(prompt_ids)))
    return [example for example in examples if len(example.ids) <= context]


def _split(examples: list[_Example]) -> tuple[list[_Example], list[_Example]]:
    """Split into training and held-out examples; those with the same prompt are on the same side."""
    prompts = sorted({tuple(example.ids[: example.start]) for example in examples})
    if len(prompts) < 10:
        raise PolicyError(
            f"base=tiny needs at least 10 different prompts that fit its context to be warmed on; there are "
            f"{len(prompts)} (tiny.context is too small, or the task has no training text)"
        )
    count = min(_MAX_HELD_OUT, max(1, round(_HELD_OUT * len(prompts))))
    chosen = set(random.Random(0).sample(prompts, count))
    sides: tuple[list[_Example], list[_Example]] = ([], [])
    for example in examples:
        sides[tuple(example.ids[: example.start]) in chosen].append(example)
    return sides


def _batches(examples: Sequence[_Example], generator: random.Random) -> list[list[_Example]]:
    order = generator.sample(examples, len(examples))
    size = _BATCH * _BATCHES_PER_POOL
    pools = [sorted(order[i : i + size], key=lambda example: len(example.ids)) for i in range(0, len(order), size)]
    batches = [pool[i : i + _BATCH] for pool in pools for i in range(0, len(pool), _BATCH)]
    generator.shuffle(batches)
    return batches


def _answer_loss(model: Any, batch: Sequence[_Example]) -> tuple[Tensor, int]:
    """Return the summed cross entropy over answer tokens, and their number; rows are padded right."""
    longest = max(len(example.ids) for example in batch)
    ids_bt = torch.tensor([example.ids + [0] * (longest - len(example.ids)) for example in batch])
    position_bt = torch.arange(longest - 1)[None]
    first_b1 = torch.tensor([[example.start - 1] for example in batch])
    end_b1 = torch.tensor([[len(example.ids) - 1] for example in batch])
    predicts_bt = (position_bt >= first_b1) & (position_bt < end_b1)
    # The head, which costs as much as the rest of such a small model, is applied only where an answer token follows.
    hidden_bth = model.model(input_ids=ids_bt[:, :-1], use_cache=False).last_hidden_state
    logits_nv = model.lm_head(hidden_bth[predicts_bt])
    return cross_entropy(logits_nv, ids_bt[:, 1:][predicts_bt], reduction="sum"), len(logits_nv)


@torch.no_grad()
def _held_out_loss(model: Any, examples: Sequence[_Example]) -> float:
    model.eval()
    parts = [_answer_loss(model, examples[i : i + _BATCH]) for i in range(0, len(examples), _BATCH)]
    return float(sum(total for total, _ in parts)) / sum(count for _, count in parts)


def _copy(model: Any) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}
