"""The weights of tokens are the gradients of TRL's own losses, which its own code computes here from logprobs."""

from collections import defaultdict
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as some

torch = pytest.importorskip("torch", reason="TRL's losses need torch")
pytest.importorskip("trl", reason="TRL's losses are the reference")

from sia_runner.errors import TrainingError
from sia_runner.training.algorithms.base import PolicyLoss
from sia_runner.training.drift import drift_factors
from sia_runner.training.losses import (
    LossBatch,
    PreferenceBatch,
    StepSize,
    pad_rows,
    policy_weights,
    preference_weights,
    supervised_weights,
)

MAX_LENGTH = 50
LEVELS = {"grpo": ("token", "sequence"), "sapo": ("token", "sequence"), "luspo": ("sequence",)}
LOSSES = [
    (loss, level)
    for loss in ("grpo", "dr_grpo", "dapo", "bnpo", "cispo", "sapo", "luspo", "vespo")
    for level in LEVELS.get(loss, ("token",))
]


@pytest.fixture(scope="module")
def accelerator():
    from accelerate import Accelerator

    return Accelerator(cpu=True)


@pytest.fixture(autouse=True, scope="module")
def float64():
    """TRL's constants have torch's default type: SAPO's 1.05 would be a float32."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def bare(trainer_class, **attributes) -> Any:
    """A trainer without its constructor, which wants a model, data and folders: only what its loss reads."""
    trainer = object.__new__(trainer_class)
    vars(trainer).update(
        model=SimpleNamespace(training=True),
        aux_loss_enabled=False,
        current_gradient_accumulation_steps=1,
        _metrics={"train": defaultdict(list)},
        _total_train_tokens=0,
        _tp_size=1,
    )
    vars(trainer).update(attributes)
    return trainer


def gradient_of(loss, logprob_bt) -> np.ndarray:
    (gradient,) = torch.autograd.grad(loss, logprob_bt)
    return gradient.numpy()


def tensor(array):
    return torch.tensor(array, dtype=torch.float64 if np.asarray(array).dtype.kind == "f" else torch.int64)


def grpo_gradient(accelerator, loss: PolicyLoss, batch: LossBatch) -> np.ndarray:
    """By autograd of GRPOTrainer._compute_loss, in float64: its model's logprobs are the batch's."""
    from trl.trainer.grpo_config import GRPOConfig
    from trl.trainer.grpo_trainer import GRPOTrainer

    defaults = {name: field.default for name, field in GRPOConfig.__dataclass_fields__.items()}
    logprob_bt = tensor(batch.logprob_bt).requires_grad_()
    trainer = bare(
        GRPOTrainer,
        accelerator=accelerator,
        args=SimpleNamespace(**{**defaults, "steps_per_generation": 1}),
        beta=loss.beta,
        epsilon_high=loss.epsilon_high,
        epsilon_low=loss.epsilon,
        importance_sampling_level=loss.importance_level,
        loss_type=loss.loss_type,
        max_completion_length=MAX_LENGTH,
        off_policy_mask_threshold=None,
        top_entropy_quantile=1.0,
        use_vllm=batch.factor_bt is not None,
        vllm_importance_sampling_correction=True,
        _entropy_bonus_enabled=False,
        _get_per_token_logps_and_entropies=lambda *_, **__: (logprob_bt, torch.zeros_like(logprob_bt), None),
    )
    mask_bt = tensor(batch.mask_bt.astype(int))
    inputs = {
        "prompt_ids": torch.zeros(len(mask_bt), 1, dtype=torch.int64),
        "prompt_mask": torch.ones(len(mask_bt), 1, dtype=torch.int64),
        "completion_ids": torch.zeros_like(mask_bt),
        "completion_mask": mask_bt,
        "old_per_token_logps": tensor(batch.old_bt),
        # Sequence losses want one advantage for each row, as ours have it.
        "advantages": tensor(batch.advantage_bt if loss.importance_level == "token" else batch.advantage_bt[:, 0]),
        "num_items_in_batch": mask_bt.sum().double(),
    }
    if batch.base_bt is not None:
        inputs["ref_per_token_logps"] = tensor(batch.base_bt)
    if batch.factor_bt is not None:
        inputs["importance_sampling_ratio"] = tensor(batch.factor_bt)
    return gradient_of(trainer._compute_loss(None, inputs), logprob_bt)


def random_batch(seed: int, rows: int, tokens: int, *, spread: float = 0.5, per_token: bool = False) -> LossBatch:
    """Ratios on both sides of every clip, rows of different lengths, some without a token, advantages of all signs."""
    random = np.random.default_rng(seed)
    shape = (rows, tokens)
    old_bt = -random.exponential(1.0, shape)
    mask_bt = np.arange(tokens)[None, :] < random.integers(0, tokens + 1, rows)[:, None]
    mask_bt[0] = True  # TRL's dapo divides by tokens, so there has to be one
    advantage_bt = random.normal(size=shape if per_token else (rows, 1)) * (random.random((rows, 1)) < 0.8)
    return LossBatch(
        logprob_bt=old_bt + spread * random.normal(size=shape),
        old_bt=old_bt,
        advantage_bt=np.broadcast_to(advantage_bt, shape),
        mask_bt=mask_bt,
        base_bt=old_bt + spread * random.normal(size=shape),
    )


def policy_loss(loss: str, level: str = "token", beta: float = 0.05) -> PolicyLoss:
    return PolicyLoss(loss, 0.2, 5.0 if loss == "cispo" else 0.28, beta, level, 1)


def weights(loss: PolicyLoss, batch: LossBatch) -> np.ndarray:
    return policy_weights(loss, batch, StepSize.of(batch.mask_bt, MAX_LENGTH))


@pytest.mark.parametrize(("loss", "level"), LOSSES)
@settings(max_examples=25, deadline=None)
@given(some.integers(0, 10**6), some.integers(1, 6), some.integers(1, 9), some.sampled_from([0.0, 0.3, 3.0]))
@example(0, 6, 9, 0.3)
def test_policy_weights_are_the_gradients_of_the_loss(accelerator, loss, level, seed, rows, tokens, spread):
    batch = random_batch(seed, rows, tokens, spread=spread)
    for beta in (0.0, 0.05):
        settled = policy_loss(loss, level, beta)
        expected = grpo_gradient(accelerator, settled, batch)
        assert weights(settled, batch) == pytest.approx(expected, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("loss", ["dapo", "cispo", "sapo"])
@given(some.integers(0, 10**6))
@settings(max_examples=25, deadline=None)
def test_advantages_may_differ_by_token_as_those_of_a_critic_do(accelerator, loss, seed):
    batch = random_batch(seed, 4, 6, per_token=True)
    expected = grpo_gradient(accelerator, policy_loss(loss), batch)
    assert weights(policy_loss(loss), batch) == pytest.approx(expected, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize(("loss", "level"), LOSSES)
@given(some.integers(0, 10**6), some.sampled_from(["truncate", "mask"]))
@settings(max_examples=25, deadline=None)
def test_factors_against_drift_are_those_of_the_loss(accelerator, loss, level, seed, correction):
    batch = random_batch(seed, 4, 6)
    sampler_bt = batch.old_bt + 0.7 * np.random.default_rng(seed).normal(size=batch.old_bt.shape)
    factor_bt = drift_factors(correction, batch.old_bt, sampler_bt, batch.mask_bt)
    corrected = replace(batch, factor_bt=factor_bt)
    expected = grpo_gradient(accelerator, policy_loss(loss, level), corrected)
    assert weights(policy_loss(loss, level), corrected) == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_the_random_batches_reach_both_clips_and_empty_rows():
    batch = random_batch(0, 6, 9)
    ratio_bt = np.exp(batch.logprob_bt - batch.old_bt)[batch.mask_bt]
    assert (ratio_bt < 0.8).any()
    assert (ratio_bt > 1.28).any()
    assert any(not random_batch(seed, 6, 9).mask_bt.any(axis=1).all() for seed in range(20))
    clipped = weights(policy_loss("dapo", beta=0.0), batch)[batch.mask_bt] == 0
    assert 0 < clipped.sum() < clipped.size


def test_by_hand():
    """dapo with two tokens: ratio 1 has -A / 2, ratio 1.5 of a positive advantage is clipped."""
    batch = LossBatch.of_rows([[-1.0, -1.0 + np.log(1.5)]], [[-1.0, -1.0]], [[2.0, 2.0]])
    assert weights(policy_loss("dapo", beta=0.0), batch).tolist() == [[-1.0, 0.0]]
    worse = replace(batch, advantage_bt=-batch.advantage_bt)
    assert weights(policy_loss("dapo", beta=0.0), worse) == pytest.approx(np.array([[1.0, 1.5]]))


class Chain:
    """A policy of two tokens of a small vocabulary, whose sequences can all be listed: p(a) p(b | a), from logits."""

    WORDS = 5

    def __init__(self, seed: int) -> None:
        logits = np.random.default_rng(seed).normal(0, 1.5, (1 + self.WORDS, self.WORDS))
        self.log_pv = logits - np.log(np.exp(logits).sum(-1, keepdims=True))  # position (first, or after a) -> token

    def rows(self) -> list[np.ndarray]:
        """The logprobs of all sequences (a, b), in order."""
        words = range(self.WORDS)
        return [np.array([self.log_pv[0, a], self.log_pv[1 + a, b]]) for a in words for b in words]


@pytest.mark.parametrize("drift", [False, True], ids=["on policy", "the policy moved since"])
def test_the_expected_gradient_of_the_kl_is_that_of_the_policy_to_the_base(drift):
    """KL(policy || base) of each token, over all sequences that the sampler may draw; not KL(base || policy)."""
    policy, base = Chain(1), Chain(2)
    sampler = Chain(3) if drift else policy
    beta, words = 0.3, Chain.WORDS
    loss = PolicyLoss("dapo", 0.2, 0.2, beta, "token", 1)
    rows = LossBatch.of_rows(policy.rows(), sampler.rows(), np.zeros((words**2, 2)), base.rows())
    weight_bt = policy_weights(loss, rows, StepSize(rows=1, tokens=1, max_length=2))
    gradient_pv = np.zeros((1 + words, words))  # by the logits, of the expectation over the sampler's sequences
    chance_pv = np.exp(policy.log_pv)
    for row, logprobs in enumerate(sampler.rows()):
        for at, (position, token) in enumerate([(0, row // words), (1 + row // words, row % words)]):
            gradient_pv[position] += (
                np.exp(logprobs.sum()) * weight_bt[row, at] * (np.eye(words)[token] - chance_pv[position])
            )
    reached_p1 = np.concatenate([[1.0], np.exp(sampler.log_pv[0])])[:, None]  # how often a position is
    gap_pv = policy.log_pv - base.log_pv
    reverse_pv = chance_pv * (gap_pv - (chance_pv * gap_pv).sum(-1, keepdims=True))
    assert gradient_pv == pytest.approx(beta * reached_p1 * reverse_pv, abs=1e-12)
    forward_pv = chance_pv - np.exp(base.log_pv)
    assert np.abs(gradient_pv - beta * reached_p1 * forward_pv).max() > 0.1 * beta


def test_what_stands_outside_the_mask_is_not_read():
    batch = random_batch(3, 5, 7)
    filled = {
        name: np.where(batch.mask_bt, getattr(batch, name), np.nan)
        for name in ("logprob_bt", "old_bt", "base_bt", "advantage_bt")
    }
    for loss, level in LOSSES:
        other = weights(policy_loss(loss, level), replace(batch, **filled))
        assert other.tolist() == weights(policy_loss(loss, level), batch).tolist()
        assert not other[~batch.mask_bt].any()


@pytest.mark.parametrize(("loss", "level"), LOSSES)
def test_a_row_without_advantage_has_no_gradient(loss, level):
    batch = random_batch(3, rows=4, tokens=6)
    advantage_bt = np.where(np.arange(4)[:, None] == 1, 0.0, 1.0 + batch.advantage_bt)
    batch = replace(batch, advantage_bt=advantage_bt, mask_bt=np.ones_like(batch.mask_bt))
    weight_bt = weights(policy_loss(loss, level, beta=0.0), batch)
    assert weight_bt[0].any() and not weight_bt[1].any()


@pytest.mark.parametrize(("loss", "level"), LOSSES)
def test_a_step_in_parts_has_the_weights_of_the_whole(loss, level):
    """A learner may compute them chunk by chunk, and a process for its own rows."""
    batch = random_batch(5, 6, 8)
    step = StepSize.of(batch.mask_bt, MAX_LENGTH)
    parts = []
    for rows in (slice(0, 2), slice(2, 6)):
        part = {
            name: getattr(batch, name)[rows] for name in ("logprob_bt", "old_bt", "advantage_bt", "mask_bt", "base_bt")
        }
        parts.append(policy_weights(policy_loss(loss, level), LossBatch(**part), step))
    assert np.concatenate(parts) == pytest.approx(weights(policy_loss(loss, level), batch), rel=1e-12)


def test_rows_of_any_length_are_padded():
    padded_bt, mask_bt = pad_rows([[1.0, 2.0], [], [3.0]])
    assert padded_bt.tolist() == [[1, 2], [0, 0], [3, 0]]
    assert mask_bt.tolist() == [[True, True], [False, False], [True, False]]
    assert pad_rows([])[0].shape == (0, 0)


def test_a_kl_without_the_base_and_an_unknown_loss_are_errors():
    batch = replace(random_batch(0, 2, 2), base_bt=None)
    with pytest.raises(TrainingError, match="base's logprobs"):
        weights(policy_loss("dapo"), batch)
    with pytest.raises(TrainingError, match="unknown loss: dppo"):
        weights(policy_loss("dppo", beta=0.0), batch)


def dpo_gradients(accelerator, loss: str, beta: float, batch: PreferenceBatch) -> tuple[np.ndarray, np.ndarray]:
    """By autograd of DPOTrainer._compute_loss; its model's logprobs are 0 outside the mask, as its fused head's are."""
    from trl.trainer.dpo_trainer import DPOTrainer

    mask_pt = np.concatenate([batch.chosen_mask_pt, batch.rejected_mask_pt])
    logprob_pt = tensor(np.concatenate([batch.chosen_pt, batch.rejected_pt])).requires_grad_()
    base_pt = np.concatenate([batch.base_chosen_pt, batch.base_rejected_pt])
    base_chosen_p, base_rejected_p = tensor((base_pt * mask_pt).sum(axis=1)).chunk(2)
    shown = logprob_pt * tensor(mask_pt.astype(int))
    zeros = torch.zeros_like(shown)
    outputs = SimpleNamespace(log_probs=shown, entropy=zeros, mean_logits=zeros, is_top1=zeros.bool())
    trainer = bare(
        DPOTrainer,
        accelerator=accelerator,
        ld_alpha=None,
        precompute_ref_logps=True,
        f_divergence_type="reverse_kl",
        beta=beta,
        loss_types=[loss],
        loss_weights=[1.0],
        label_smoothing=0.0,
        use_weighting=False,
    )
    # A prompt of one token stands before every completion.
    completion_mask = tensor(np.pad(mask_pt.astype(int), ((0, 0), (1, 0))))
    inputs = {
        "input_ids": torch.zeros_like(completion_mask),
        "attention_mask": torch.ones_like(completion_mask),
        "completion_mask": completion_mask,
        "ref_chosen_logps": base_chosen_p,
        "ref_rejected_logps": base_rejected_p,
    }
    loss_value = trainer._compute_loss(lambda **_: outputs, inputs, return_outputs=False)
    pairs = len(batch.chosen_pt)
    gradient = gradient_of(loss_value, logprob_pt)
    return gradient[:pairs], gradient[pairs:]


def random_pairs(seed: int, pairs: int, tokens: int, spread: float) -> PreferenceBatch:
    random = np.random.default_rng(seed)
    chosen, rejected = (random_batch(int(random.integers(10**6)), pairs, tokens, spread=spread) for _ in range(2))
    return PreferenceBatch(
        chosen.logprob_bt, rejected.logprob_bt, chosen.old_bt, rejected.old_bt, chosen.mask_bt, rejected.mask_bt
    )


@pytest.mark.parametrize("loss", ["sigmoid", "ipo"])
@settings(max_examples=25, deadline=None)
@given(some.integers(0, 10**6), some.integers(1, 5), some.integers(1, 9), some.sampled_from([0.0, 0.5, 20.0]))
def test_preference_weights_are_the_gradients_of_the_loss(accelerator, loss, seed, pairs, tokens, spread):
    batch = random_pairs(seed, pairs, tokens, spread)
    for beta in (0.02, 0.1, 1.0):
        expected = dpo_gradients(accelerator, loss, beta, batch)
        for computed, reference in zip(preference_weights(loss, beta, batch, pairs), expected, strict=True):
            assert computed == pytest.approx(reference, rel=1e-9, abs=1e-12)


def test_pairs_in_parts_have_the_weights_of_the_whole():
    batch = random_pairs(1, 5, 6, 0.5)
    whole = preference_weights("ipo", 0.1, batch, 5)
    part = PreferenceBatch(*(getattr(batch, name)[:2] for name in batch.__slots__))
    for some_rows, all_rows in zip(preference_weights("ipo", 0.1, part, 5), whole, strict=True):
        assert some_rows.tolist() == all_rows[:2].tolist()


@given(some.integers(0, 10**6))
@settings(max_examples=10, deadline=None)
def test_supervised_weights_are_the_gradients_of_the_cross_entropy(accelerator, seed):
    """By autograd of SFTTrainer.compute_loss; its model's logprobs are 0 outside the labels."""
    from trl.trainer.sft_trainer import SFTTrainer

    batch = random_batch(seed, 4, 7)
    logprob_bt = tensor(batch.logprob_bt).requires_grad_()
    mask_bt = tensor(batch.mask_bt.astype(int))
    zeros = torch.zeros_like(logprob_bt)
    outputs = SimpleNamespace(
        log_probs=logprob_bt * mask_bt,
        label_mask=mask_bt.bool(),
        entropy=zeros,
        is_top1=zeros.bool(),
    )
    trainer = bare(
        SFTTrainer,
        accelerator=SimpleNamespace(parallelism_config=None, gather_for_metrics=lambda value: value),
        args=SimpleNamespace(loss_type="nll", average_tokens_across_devices=False),
        compute_loss_func=None,
        label_smoother=None,
    )
    inputs = {"input_ids": torch.zeros_like(mask_bt), "attention_mask": mask_bt, "labels": mask_bt}
    loss = trainer.compute_loss(lambda **_: outputs, inputs, num_items_in_batch=mask_bt.sum())
    computed = supervised_weights(batch.mask_bt, int(batch.mask_bt.sum()))
    assert computed == pytest.approx(gradient_of(loss, logprob_bt), rel=1e-12)
