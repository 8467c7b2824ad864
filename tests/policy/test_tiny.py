"""base=tiny: built once for a spec and texts, warmed until held-out loss stops improving."""

import hashlib
import json
import threading

import pytest

torch = pytest.importorskip("torch", reason="the training extra is not installed")

from sia_runner.policy import tiny as module
from sia_runner.policy import tiny_warmup as warming
from sia_runner.policy.base_model import load_base, weights_sha256
from sia_runner.policy.tiny import (
    learn_tokenizer,
    tiny_base_folder,
)
from sia_runner.wire.policy import PolicyError, WarmupDialogue
from tests.policy.checkpoints import SMALL, SUMS

QUICK = SMALL.model_copy(update={"epochs": 1, "layers": 1, "hidden": 32})
FEW = SUMS[:60]


def quiet(_line):
    pass


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def built(cache):
    return tiny_base_folder(QUICK, cache, FEW, quiet)


def test_a_spec_and_texts_give_one_model(cache, built, tmp_path):
    """The same in another cache, with other threads and after other random numbers; and built once only."""
    assert tiny_base_folder(QUICK, cache, FEW, pytest.fail) == built
    torch.manual_seed(99)
    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    again = tiny_base_folder(QUICK, tmp_path, FEW, quiet)
    assert torch.get_num_threads() == threads + 1, "the caller's own setting is back"
    torch.set_num_threads(threads)
    assert (again.name, weights_sha256(again)) == (built.name, weights_sha256(built))


def test_building_leaves_the_callers_random_numbers_alone(tmp_path):
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    tiny_base_folder(QUICK.model_copy(update={"epochs": 0}), tmp_path, FEW, quiet)
    assert torch.rand(1) == expected


def test_other_texts_or_another_spec_are_another_model(cache, built):
    other = [*FEW[1:], WarmupDialogue(FEW[0].messages, "another answer")]
    bigger = QUICK.model_copy(update={"epochs": 2})
    names = {module._cache_key(spec, texts) for spec, texts in ((QUICK, other), (bigger, FEW), (QUICK, FEW))}
    assert len(names) == 3 and built.name in names


def test_two_at_the_same_time_build_once(tmp_path):
    lines = []
    threads = [threading.Thread(target=tiny_base_folder, args=(QUICK, tmp_path, FEW, lines.append)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(lines) == 2, "a line at the beginning and one at the end, of one build"


def test_a_build_that_was_cut_leaves_nothing_behind(tmp_path, monkeypatch):
    monkeypatch.setattr(
        "transformers.Qwen3ForCausalLM.save_pretrained", lambda *_: (_ for _ in ()).throw(OSError("full"))
    )
    with pytest.raises(OSError, match="full"):
        tiny_base_folder(QUICK, tmp_path, FEW, quiet)
    assert [path.suffix for path in (tmp_path / "policies").iterdir()] == [".lock"]


def test_warm_json_says_how_warming_went(tmp_path):
    """Loss on held-out dialogues before training and after each epoch, and whose weights were kept."""
    lines = []
    made = tiny_base_folder(SMALL.model_copy(update={"epochs": 3}), tmp_path, SUMS, lines.append)
    said = json.loads((made / "warm.json").read_text())
    assert len(said["loss"]) == 4 and said["loss"][said["epoch"]] == min(said["loss"])
    assert (said["trained"], said["held_out"], said["too_long"]) == (360, 40, 0)
    assert said["stopped"] == "all 3 epochs done"
    assert f"{min(said['loss']):.3f}" in lines[-1]


def hash_of(dialogue):
    return int(hashlib.sha256(dialogue.messages[0]["content"].encode()).hexdigest(), 16)


@pytest.fixture(scope="module")
def by_heart(tmp_path_factory):
    """Answers drawn at random cannot be learned, only remembered: held-out loss is best early on."""
    noise = [WarmupDialogue(one.messages, str(hash_of(one) % 90)) for one in SUMS[:200]]
    made = tiny_base_folder(SMALL.model_copy(update={"epochs": 40}), tmp_path_factory.mktemp("noise"), noise, quiet)
    return made, noise, json.loads((made / "warm.json").read_text())


def test_warming_ends_when_held_out_loss_stops_improving(by_heart):
    _, _, said = by_heart
    assert said["stopped"] == "no improvement in 3 epochs"
    assert len(said["loss"]) - 1 == said["epoch"] + 3 < 40


def test_the_weights_that_are_kept_are_those_of_the_best_epoch(by_heart):
    made, noise, said = by_heart
    base = load_base(str(made), "cpu", "float32")
    _, held_out = warming._split(warming._examples(base.tokenizer, noise, SMALL.context))
    assert warming._held_out_loss(base.model, held_out) == pytest.approx(said["loss"][said["epoch"]], abs=1e-5)


def test_the_loss_is_that_of_transformers_over_answer_tokens(built):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer, model = AutoTokenizer.from_pretrained(built), AutoModelForCausalLM.from_pretrained(built)
    examples = warming._examples(tokenizer, SUMS[::37], 64)
    losses = []
    for one in examples:
        labels = [-100] * one.start + one.ids[one.start :]
        mean = model(input_ids=torch.tensor([one.ids]), labels=torch.tensor([labels])).loss
        losses.append(mean.item() * (len(one.ids) - one.start))
    total, count = warming._answer_loss(model, examples)
    assert count == sum(len(one.ids) - one.start for one in examples)
    assert total.item() == pytest.approx(sum(losses), rel=1e-5)


def test_a_prompt_is_never_on_both_sides():
    twice = [*SUMS, *(WarmupDialogue(one.messages, one.answer + "!") for one in SUMS)]
    tokenizer = learn_tokenizer(twice, 300, 64)
    fitting, held_out = warming._split(warming._examples(tokenizer, twice, 64))
    sides = [{tuple(one.ids[: one.start]) for one in side} for side in (fitting, held_out)]
    assert not sides[0] & sides[1]
    assert len(sides[0] | sides[1]) == len(SUMS) and len(fitting) + len(held_out) == len(twice)


def test_too_little_text_is_refused_by_name(tmp_path):
    with pytest.raises(PolicyError, match="10 different"):
        tiny_base_folder(QUICK, tmp_path, FEW[:5], quiet)
    with pytest.raises(PolicyError, match="context"):
        tiny_base_folder(QUICK.model_copy(update={"context": 4}), tmp_path, FEW, quiet)


def test_any_text_has_tokens_and_comes_back(built):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(built)
    for text in ("12+7=", " two  spaces\n", "被告人", "\x00 😀"):
        assert tokenizer.decode(tokenizer(text)["input_ids"], skip_special_tokens=True) == text


def test_digits_are_tokens_of_their_own(built):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(built)
    assert tokenizer.tokenize("12+119") == ["1", "2", "+", "1", "1", "9"]


def test_the_chat_template_is_trivial(built):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(built)
    messages = [{"role": "system", "content": "add"}, {"role": "user", "content": "1+2="}]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert text == "<|system|>add<|end|><|user|>1+2=<|end|><|assistant|>"
