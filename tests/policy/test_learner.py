"""The learner in this process: its gradient is that of the plain loss over the whole vocabulary, however it is cut."""

import random
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="training needs torch")
pytest.importorskip("trl", reason="the fused head is TRL's")

from sia_runner.config.training import LoraSettings
from sia_runner.wire.learning import ForwardPass, TokenWeights, TrainingRow
from tests.training import toy

LORA = LoraSettings(rank=4, alpha=8)


@contextmanager
def learner_of(policy: Any, work: Path, lora: LoraSettings = LORA, critic: bool = False, start=None, **settings: Any):
    """A learner whose adapter has an effect: B is random, not zero as that of a new one."""
    with policy.learner(lora, start, 0, critic=critic, work=work, **settings) as learner:
        if start is None:
            disturb(policy.model)
        yield learner


def disturb(model: Any) -> None:
    torch.manual_seed(5)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.requires_grad and "lora_A" not in name:
                weight.add_(torch.randn_like(weight) * 0.02)


def rows_of(count: int, samples: int = 1, prompt: int = 6, seed: int = 0) -> list[TrainingRow]:
    """Prompts of different lengths with completions of different lengths."""
    dice = random.Random(seed)

    def tokens(length: int) -> tuple[int, ...]:
        return tuple(dice.randrange(4, toy.VOCABULARY) for _ in range(length))

    prompts = [tokens(prompt + n % 4) for n in range(count)]
    return [TrainingRow(ids, tokens(1 + (n + 3 * k) % 5)) for n, ids in enumerate(prompts) for k in range(samples)]


def weights_of(rows: list[TrainingRow], seed: int = 1) -> list[np.ndarray]:
    """Weights of both signs, as advantages give them."""
    dice = np.random.default_rng(seed)
    return [dice.normal(size=len(row.completion_ids)) for row in rows]


def fixed(weights: list[np.ndarray], values: list[np.ndarray] | None = None) -> Any:
    def lower(part: ForwardPass) -> TokenWeights:
        own = None if values is None else [values[row] for row in part.rows]
        return TokenWeights([weights[row] for row in part.rows], own)

    return lower


def plain_logprobs(model: Any, row: TrainingRow, temperature: float = 1.0) -> Any:
    """One row at a time, from the logits of the whole vocabulary."""
    ids = torch.tensor([[*row.prompt_ids, *row.completion_ids]])
    logits_tv = model(input_ids=ids).logits[0, len(row.prompt_ids) - 1 : -1] / temperature
    return logits_tv.log_softmax(-1).gather(1, torch.tensor(row.completion_ids)[:, None])[:, 0]


def gradient(model: Any) -> Any:
    """The gradient of the adapter, as one vector."""
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    return torch.cat(
        [torch.zeros(weight.numel()) if weight.grad is None else weight.grad.ravel() for weight in weights]
    )


def plain_gradient(model: Any, loss: Any) -> Any:
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    return torch.cat([part.ravel() for part in torch.autograd.grad(loss, weights)])


def difference(one: Any, other: Any) -> float:
    return float((one - other).norm() / other.norm())


SETTINGS: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    "own prompts": ({}, {}, {"count": 7}),
    "shared prompts": ({}, {}, {"count": 3, "samples": 4, "prompt": 20}),
    "temperature": ({}, {"temperature": 0.7}, {"count": 3, "samples": 4, "prompt": 20}),
    "head and embeddings": ({}, {"lora": LoraSettings(rank=4, save=["embed_tokens", "lm_head"])}, {"count": 5}),
    "tied": ({"tie_word_embeddings": True}, {"lora": LoraSettings(rank=4, save=["embed_tokens"])}, {"count": 5}),
    "sliding window": ({"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 0}, {}, {"count": 5}),
}


@pytest.mark.parametrize("name", list(SETTINGS))
def test_logprobs_and_gradient_are_those_of_the_plain_loss(name, tmp_path):
    changes, settings, shape = SETTINGS[name]
    policy, rows = (
        toy.ToyPolicy(toy.small_model(**({"initializer_range": 0.05} | changes)), toy.small_tokenizer()),
        rows_of(**shape),
    )
    weights, temperature = weights_of(rows), settings.get("temperature", 1.0)
    with learner_of(policy, tmp_path, **settings) as learner:
        expected = [plain_logprobs(policy.model, row, temperature) for row in rows]
        loss = sum((torch.tensor(w) * logprobs).sum() for w, logprobs in zip(weights, expected, strict=True))
        wanted = plain_gradient(policy.model, loss)
        (seen,) = learner.backward(rows, fixed(weights))
        assert difference(gradient(policy.model), wanted) < 1e-6
        for row, logprobs in zip(seen.rows, seen.logprobs, strict=True):
            assert logprobs == pytest.approx(expected[row].detach().numpy(), abs=1e-5)
