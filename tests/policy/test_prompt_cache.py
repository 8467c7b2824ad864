"""A prompt is read once for each version of the weights, and nothing else changes by it."""

import random

import pytest

torch = pytest.importorskip("torch", reason="the training extra is not installed")

from sia_runner.policy import sampling as module
from sia_runner.policy.engine import PolicyEngine
from sia_runner.policy.sampling import PromptCache, _read_prompts
from tests.policy.checkpoints import ask, checkpoint, generate, no_texts, spec

PROMPTS = [[random.Random(n).randrange(3, 100) for _ in range(4 + 3 * n)] for n in range(6)]


@pytest.fixture
def forwards(engine, monkeypatch):
    """How many prompts each forward pass over prompts had."""
    seen = []
    monkeypatch.setattr(
        module,
        "_read_prompts",
        lambda model, prompts, *more: seen.append(len(prompts)) or _read_prompts(model, prompts, *more),
    )
    return seen


def read(prefixes, engine, prompts, version="base"):
    with torch.no_grad():
        answer = prefixes.read(engine.model, prompts, engine.tokenizer.pad_token_id, version, lambda: False)
    assert answer is not None
    return answer


def test_the_samples_of_a_question_read_its_prompt_once(engine, forwards):
    prefixes = PromptCache()
    for _ in range(3):
        _, mask_bt, logits_bv = read(prefixes, engine, PROMPTS[:4] * 2)
        assert mask_bt.sum(-1).tolist() == [len(prompt) for prompt in PROMPTS[:4] * 2]
        assert torch.equal(logits_bv[:4], logits_bv[4:])
    read(prefixes, engine, PROMPTS)
    assert forwards == [4, 2]


def test_what_was_kept_is_what_reading_gives(engine):
    prefixes = PromptCache()
    read(prefixes, engine, PROMPTS[3:])
    cache, mask_bt, logits_bv = read(prefixes, engine, PROMPTS)
    with torch.no_grad():
        whole, whole_mask_bt, expected_bv = _read_prompts(engine.model, [tuple(prompt) for prompt in PROMPTS], 0)
    assert torch.equal(mask_bt, whole_mask_bt)
    torch.testing.assert_close(logits_bv, expected_bv, atol=1e-5, rtol=1e-5)
    tokens = mask_bt.bool()[:, None, :, None]
    for layer, of_whole in zip(cache.layers, whole.layers, strict=True):
        torch.testing.assert_close(layer.keys * tokens, of_whole.keys * tokens, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(layer.values * tokens, of_whole.values * tokens, atol=1e-5, rtol=1e-5)


def test_what_prompts_begin_with_alike_is_read_once(engine, forwards):
    instructions = [3 + n % 90 for n in range(30)]
    asked = [[*instructions, *prompt] for prompt in PROMPTS[1:4]]
    prefixes = PromptCache()
    cache, mask_bt, logits_bv = read(prefixes, engine, asked)
    assert forwards == [1, 3], "the instructions, then three questions"
    with torch.no_grad():
        whole, whole_mask_bt, expected_bv = _read_prompts(engine.model, [tuple(prompt) for prompt in asked], 0)
    assert torch.equal(mask_bt, whole_mask_bt)
    torch.testing.assert_close(logits_bv, expected_bv, atol=1e-5, rtol=1e-5)
    tokens = mask_bt.bool()[:, None, :, None]
    for layer, of_whole in zip(cache.layers, whole.layers, strict=True):
        torch.testing.assert_close(layer.keys * tokens, of_whole.keys * tokens, atol=1e-5, rtol=1e-5)
    read(prefixes, engine, [[*instructions, *PROMPTS[5]]])
    assert forwards == [1, 3, 1], "a later question goes on from them"


def test_a_longer_beginning_goes_on_from_a_shorter_one(engine, forwards):
    system, examples = [5] * 20, [7] * 20
    prefixes = PromptCache()
    read(prefixes, engine, [[*system, 9, 9], [*system, 8, 8]])
    _, _, logits_bv = read(prefixes, engine, [[*system, *examples, 9], [*system, *examples, 8, 3]])
    assert forwards == [1, 2, 1, 2]
    with torch.no_grad():
        expected_v = _read_prompts(engine.model, [(*system, *examples, 9)], 0)[2][0]
    torch.testing.assert_close(logits_bv[0], expected_v, atol=1e-5, rtol=1e-5)


def test_what_is_short_is_not_worth_a_pass(engine, forwards):
    read(PromptCache(), engine, [[*[5] * (module._MIN_SHARED - 1), n] for n in (8, 9)])
    assert forwards == [2]


def test_other_weights_read_afresh(engine, forwards):
    prefixes = PromptCache()
    for version in ("base", "base+1", "base+1", "base"):
        read(prefixes, engine, PROMPTS[:2], version)
    assert forwards == [2, 2, 2]


def test_trained_weights_answer_otherwise(tmp_path):
    """Through the engine: training makes a new version."""
    engine = PolicyEngine(spec(checkpoint(tmp_path / "base")), tmp_path, no_texts)
    before = generate(engine, [ask("12+7=")])[0]
    with engine.training() as model, torch.no_grad():
        model.lm_head.weight.copy_(-model.lm_head.weight)
    assert generate(engine, [ask("12+7=")])[0].completion_ids != before.completion_ids


def test_memory_is_bounded_and_the_oldest_go_first(engine, forwards, monkeypatch):
    prefixes = PromptCache()
    read(prefixes, engine, PROMPTS[:1])
    monkeypatch.setattr(module, "_MAX_CACHE_BYTES", 3 * prefixes._nbytes)
    for prompt in ([*PROMPTS[0], 9], [*PROMPTS[0], 10], [*PROMPTS[0], 11], PROMPTS[0]):
        read(prefixes, engine, [prompt])
        assert prefixes._nbytes <= module._MAX_CACHE_BYTES
        assert prefixes._nbytes == sum(prefix.nbytes for prefix in prefixes._entries.values())
    assert forwards == [1, 1, 1, 1, 1], "the first had to go"


def test_a_model_with_sliding_windows_reads_each_time(tmp_path, forwards):
    engine = PolicyEngine(spec(checkpoint(tmp_path / "base", "gpt_oss")), tmp_path, no_texts)
    for _ in range(2):
        generate(engine, [ask("12+7="), ask("12+7=")])
    assert forwards == [2, 2]
