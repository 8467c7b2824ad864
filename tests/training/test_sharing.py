"""Rows that share a prompt read it once, and nothing else changes by it."""

import random

import pytest

torch = pytest.importorskip("torch", reason="training needs torch")
pytest.importorskip("trl", reason="the drivers are TRL's")

from hypothesis import given, settings
from hypothesis import strategies as st
from trl.trainer.utils import add_fused_lm_head

from sia_runner.records import SampledCall
from sia_runner.training import forward
from sia_runner.training.batch import collect_batch
from sia_runner.training.forward import trl_forward
from tests.policy.checkpoints import config_of
from tests.training.trajectories import trajectory

SMALL = st.lists(st.integers(3, 9), min_size=1, max_size=5)
QUESTIONS = st.lists(st.tuples(SMALL, st.lists(SMALL, min_size=1, max_size=4)), min_size=1, max_size=4)


def chunk_of(questions):
    """The tensors of one chunk: every completion of every prompt is a row."""
    made = [
        trajectory(
            1.0, SampledCall(tuple(prompt), tuple(drawn), (-0.5,) * len(drawn), "stop", "base"), unit=f"{n}", sample=m
        )
        for n, (prompt, completions) in enumerate(questions)
        for m, drawn in enumerate(completions)
    ]
    batch = collect_batch(made)
    (chunk,) = forward.deal_chunks(batch, range(len(batch.rows)), 0, 1, 10_000)
    part = forward.chunk_tensors(batch, chunk, 0, "cpu")
    joined = [torch.cat([part[f"prompt_{what}"], part[f"completion_{what}"]], dim=1) for what in ("ids", "mask")]
    return part, *joined


def long_prompts(samples, length=30):
    dice = random.Random(0)
    return [([dice.randrange(3, 10) for _ in range(length + n)], [[3, 4], [5], [6, 7, 8]][:samples]) for n in range(3)]


@settings(max_examples=200, deadline=None)
@given(QUESTIONS)
def test_every_completion_token_is_predicted_once_from_its_own_past(questions):
    part, ids_bt, mask_bt = chunk_of([([1] * 20 + prompt, completions) for prompt, completions in questions])
    packed = forward.pack_rows(ids_bt, mask_bt, part["completion_ids"].shape[1])
    if packed is None:
        return
    seen_gll = packed.inputs()["attention_mask"][:, 0]
    length = packed.ids_gl.shape[1]
    used = []
    for row, places in enumerate(packed.position_bt.tolist()):
        whole = ids_bt[row][mask_bt[row] == 1].tolist()
        drawn = int(part["completion_mask"][row].sum())
        assert [place >= 0 for place in places] == [True] * drawn + [False] * (len(places) - drawn)
        for t, place in enumerate(places[:drawn]):
            sequence, at = divmod(place, length)
            past = seen_gll[sequence, at].nonzero().flatten()
            assert packed.ids_gl[sequence, past].tolist() == whole[: len(whole) - drawn + t]
            assert packed.position_gl[sequence, past].tolist() == list(range(len(past)))
            assert packed.label_gl[sequence, at] == whole[len(whole) - drawn + t]
            used.append(place)
    assert len(set(used)) == len(used) == int((packed.label_gl != -100).sum())


@pytest.mark.parametrize("kind", ["qwen3", "llama"])
def test_logprobs_entropies_and_gradients_are_those_of_rows_on_their_own(kind):
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config_of(kind, vocab_size=40))
    assert forward.can_share_prompts(model)
    part, ids_bt, mask_bt = chunk_of(long_prompts(3))
    drawn = part["completion_ids"].shape[1]
    packed = forward.pack_rows(ids_bt, mask_bt, drawn)
    assert packed is not None and packed.ids_gl.numel() < 0.5 * ids_bt.numel()
    labels_bt = ids_bt.masked_fill(mask_bt == 0, -100)
    labels_bt[:, :-drawn] = -100
    weights = list(model.parameters())
    with trl_forward(model):
        add_fused_lm_head(model, 0.8, outputs=("log_probs", "entropy"))
        alone = model(input_ids=ids_bt, attention_mask=mask_bt, labels=labels_bt, fused_lm_head=True)
        expected = torch.autograd.grad(alone.log_probs.sum(), weights)
        shared = model(**packed.inputs(), shift_labels=packed.label_gl, fused_lm_head=True)
        found = torch.autograd.grad(packed.rows(shared.log_probs).sum(), weights)
    torch.testing.assert_close(packed.rows(shared.log_probs), alone.log_probs[:, -drawn:], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(packed.rows(shared.entropy), alone.entropy[:, -drawn:], atol=1e-5, rtol=1e-5)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-3)


def test_states_for_the_critic_are_those_of_rows_on_their_own():
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config_of("qwen3", vocab_size=40)).eval()
    part, ids_bt, mask_bt = chunk_of(long_prompts(3))
    drawn = part["completion_ids"].shape[1]
    packed = forward.pack_rows(ids_bt, mask_bt, drawn)
    assert packed is not None
    with torch.no_grad():
        alone_bth = model.model(input_ids=ids_bt, attention_mask=mask_bt).last_hidden_state[:, -drawn - 1 : -1]
        shared_bth = packed.rows(model.model(**packed.inputs()).last_hidden_state)
    used_bt = part["completion_mask"].bool()
    torch.testing.assert_close(shared_bth[used_bt], alone_bth[used_bt], atol=1e-5, rtol=1e-5)
    assert not shared_bth[~used_bt].any()


def test_rows_with_prompts_of_their_own_are_left_alone():
    part, ids_bt, mask_bt = chunk_of(long_prompts(1))
    assert forward.pack_rows(ids_bt, mask_bt, part["completion_ids"].shape[1]) is None


def test_a_model_with_sliding_windows_shares_nothing():
    from transformers import AutoModelForCausalLM

    assert not forward.can_share_prompts(AutoModelForCausalLM.from_config(config_of("gpt_oss", vocab_size=40)))
