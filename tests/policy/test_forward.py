"""The forward passes of a learner: what is scored, in which chunks, and that rows with one prompt read it once."""

import random
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="training needs torch")
pytest.importorskip("trl", reason="the fused head is TRL's")

from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM
from trl.trainer import utils

from sia_runner.policy import fit, forward
from sia_runner.policy.forward import deal_chunks, fused_head, pack_rows
from sia_runner.wire.learning import TrainingRow
from tests.policy.checkpoints import config_of
from tests.training import toy

SMALL = st.lists(st.integers(3, 9), min_size=1, max_size=5)
QUESTIONS = st.lists(st.tuples(SMALL, st.lists(SMALL, min_size=1, max_size=4)), min_size=1, max_size=4)


def rows_of(questions):
    """Every completion of every prompt is a row."""
    return [TrainingRow(tuple(prompt), tuple(ids)) for prompt, completions in questions for ids in completions]


def long_prompts(samples, length=30, beginning=0):
    """Three prompts, of which the first `beginning` tokens are equal."""
    dice = random.Random(0)
    rest = [[dice.randrange(3, 10) for _ in range(length + n)] for n in range(3)]
    return [([2] * beginning + prompt, [[3, 4], [5], [6, 7, 8]][:samples]) for prompt in rest]


def random_model(kind):
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config_of(kind, vocab_size=40)).eval()


@settings(max_examples=200, deadline=None)
@given(QUESTIONS)
def test_every_completion_token_is_predicted_once_from_its_own_past(questions):
    rows = rows_of([([1] * 20 + prompt, completions) for prompt, completions in questions])
    packed = pack_rows(rows, "cpu")
    length = packed.ids_gl.shape[1]
    tril = torch.ones(length, length, dtype=torch.bool).tril()
    seen_gll = packed.inputs()["attention_mask"][:, 0] if packed.shared else tril.expand(len(packed.ids_gl), -1, -1)
    used = []
    for row, places in zip(rows, packed.position_bt.tolist(), strict=True):
        count = len(row.completion_ids)
        assert [place >= 0 for place in places] == [True] * count + [False] * (len(places) - count)
        for t, place in enumerate(places[:count]):
            sequence, at = divmod(place, length)
            past = seen_gll[sequence, at].nonzero().flatten()
            assert tuple(packed.ids_gl[sequence, past].tolist()) == row.prompt_ids + row.completion_ids[:t]
            assert packed.position_gl[sequence, past].tolist() == list(range(len(past)))
            assert packed.label_gl[sequence, at] == row.completion_ids[t]
            used.append(place)
    assert len(set(used)) == len(used) == int((packed.label_gl != -100).sum())


@pytest.mark.parametrize("kind", ["qwen3", "llama"])
@pytest.mark.parametrize("beginning", [0, 40])
def test_logprobs_entropies_states_and_gradients_are_those_of_rows_on_their_own(kind, beginning):
    model, rows = random_model(kind), rows_of(long_prompts(3, beginning=beginning))
    assert forward.can_share_prompts(model)
    alone, shared = pack_rows(rows, "cpu", share=False), pack_rows(rows, "cpu")
    assert shared.shared and not alone.shared
    assert shared.ids_gl.numel() < 0.5 * alone.ids_gl.numel()
    assert len(shared.ids_gl) == (1 if beginning else 3)
    weights, results = list(model.parameters()), []
    with fused_head(model, 0.8):
        for packed in (alone, shared):
            output = model(**packed.inputs(), shift_labels=packed.label_gl, fused_lm_head=True)
            states = packed.rows(model.model(**packed.inputs()).last_hidden_state)
            gradients = torch.autograd.grad(packed.rows(output.log_probs).sum(), weights)
            results.append((packed.rows(output.log_probs), packed.rows(output.entropy), states, gradients))
    for one, other in zip(results[1][:3], results[0][:3], strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)
    for one, other in zip(results[1][3], results[0][3], strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-3)
    assert not results[1][2][shared.position_bt < 0].any()


def test_rows_with_prompts_of_their_own_are_left_alone():
    packed = pack_rows(rows_of(long_prompts(1)), "cpu")
    assert not packed.shared and list(packed.inputs()) == ["input_ids"]


def test_a_model_with_sliding_windows_shares_nothing():
    assert not forward.can_share_prompts(random_model("gpt_oss"))


@settings(max_examples=100, deadline=None)
@given(QUESTIONS, st.integers(1, 3), st.integers(1, 40))
def test_every_row_is_dealt_to_one_process_and_groups_stay_whole(questions, processes, tokens):
    rows = rows_of(questions)
    pairs = [(row, row + 1) for row in range(0, len(rows) - 1, 3)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fit, "_MIN_PASS_TOKENS", 1)
        dealt = [deal_chunks(rows, process, processes, pairs, tokens) for process in range(processes)]
    chunks = [chunk for own in dealt for chunk in own]
    assert sorted(row for chunk in chunks for row in chunk) == list(range(len(rows)))
    for chunk in chunks:
        assert all((first in chunk) == (second in chunk) for first, second in pairs)
        width = max(len(rows[row].prompt_ids) for row in chunk) + max(len(rows[row].completion_ids) for row in chunk)
        assert len(chunk) * width <= 4 * tokens or len(chunk) <= 2, "as long as four rows, or one group"


def test_rows_of_one_prompt_are_dealt_into_one_chunk_if_that_saves_work(monkeypatch):
    monkeypatch.setattr(fit, "_MIN_PASS_TOKENS", 1)
    rows = rows_of(long_prompts(3))[::-1]
    chunks = deal_chunks(rows, max_length=30)
    assert [{rows[row].prompt_ids for row in chunk} for chunk in chunks] == [
        {prompt} for prompt in sorted({row.prompt_ids for row in rows}, key=len, reverse=True)
    ]


@given(QUESTIONS, st.integers(1, 3), st.integers(1, 60))
def test_a_chunk_fits_into_its_tokens_but_for_rows_that_share_too_little_to_be_packed(questions, processes, most):
    rows = rows_of(questions)
    dealt = [deal_chunks(rows, at, processes, keep_empty=True, most_tokens=most) for at in range(processes)]
    assert len({len(own) for own in dealt}) == 1
    assert sorted(row for own in dealt for chunk in own for row in chunk) == list(range(len(rows)))
    for chunk in (chunk for own in dealt for chunk in own if len(chunk) > 1):
        read = pack_rows([rows[row] for row in chunk], "cpu").branch_gl >= 0
        assert int(read.sum()) <= most / forward._SHARING_THRESHOLD


def test_a_shared_prompt_leaves_room_for_more_rows():
    rows = rows_of(long_prompts(3))
    packed = sum(map(len, {row.prompt_ids for row in rows})) + sum(len(row.completion_ids) for row in rows)
    assert len(deal_chunks(rows, most_tokens=packed)) == 1 < len(deal_chunks(rows, most_tokens=packed - 1))


def test_what_prompts_begin_with_is_read_once_so_that_a_chunk_has_room_for_more_of_them():
    rows = rows_of(long_prompts(3, beginning=100))
    packed = pack_rows(rows, "cpu")
    assert packed.ids_gl.shape == (1, 100 + sum(30 + n - 1 for n in range(3)) + 3 * (2 + 1 + 3))
    limit = packed.ids_gl.numel() + 3  # a prompt's last token is counted with it, and read with each completion
    assert len(deal_chunks(rows, most_tokens=limit)) == 1
    assert len(deal_chunks(rows, most_tokens=limit, share=False)) == 9


def test_a_sequence_of_several_prompts_stays_short_enough_for_its_attention(monkeypatch):
    rows = rows_of(long_prompts(3, beginning=100))
    monkeypatch.setattr(forward, "_MAX_SEQUENCE", 200)
    assert len(pack_rows(rows, "cpu").ids_gl) == 3


@pytest.fixture
def scored(monkeypatch):
    """How many positions the head was applied to, of each forward pass."""
    counts = []
    whole: Any = vars(utils)["_ChunkedLogProbFunction"]

    class Counting:
        @staticmethod
        def apply(hidden, *rest):
            counts.append(len(hidden))
            return whole.apply(hidden, *rest)

    monkeypatch.setattr(utils, "_ChunkedLogProbFunction", Counting)
    return counts


def test_only_completion_tokens_are_scored_and_the_forward_is_restored(scored):
    model, rows = toy.small_model(), rows_of(long_prompts(1))
    packed = pack_rows(rows, "cpu")
    with fused_head(model, 1.0):
        model(**packed.inputs(), shift_labels=packed.label_gl, fused_lm_head=True)
    assert scored == [sum(len(row.completion_ids) for row in rows)]
    assert "forward" not in vars(model)
