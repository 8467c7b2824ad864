"""Adapters on one copy of the base: switched, kept apart, bounded in number, and refused on another base."""

from dataclasses import replace

import pytest

torch = pytest.importorskip("torch", reason="the training extra is not installed")

from sia_runner.policy import adapters as module
from sia_runner.policy.engine import PolicyEngine
from sia_runner.wire.policy import PolicyError
from tests.policy.checkpoints import adapter, ask, checkpoint, generate, no_texts, spec

ASKS = [ask(text, max_tokens=20) for text in ("1+1=", "19+7=", "hello")]
EXPERTS = {
    "target_modules": ["q_proj", "v_proj"],
    "target_parameters": ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"],
}


def fresh(folder, kind="qwen3"):
    return PolicyEngine(spec(checkpoint(folder / "base", kind)), folder, no_texts)


def said(engine, **changes):
    asks = [replace(one, **changes) for one in ASKS]
    return [answer.completion_ids for answer in generate(engine, asks)]


def as_peft_says(engine, folder):
    """The same answers from a base and one adapter that never met an engine."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(engine.base_id), folder).eval()
    found = []
    for one in ASKS:
        ids = torch.tensor([engine.prompt_ids(one)])
        out = model.generate(input_ids=ids, max_new_tokens=one.max_tokens, do_sample=False)
        found.append(tuple(out[0, ids.shape[1] :].tolist()))
    return found


def test_each_adapter_answers_as_it_does_alone(tmp_path):
    engine = fresh(tmp_path)
    base = said(engine)
    first, second = (adapter(tmp_path / name, engine, seed, r=r) for name, seed, r in (("a", 1, 4), ("b", 2, 2)))
    versions = []
    for folder in (first, second, None, first):
        versions.append(engine.use(folder))
        assert said(engine) == (as_peft_says(engine, folder) if folder else base)
        answer = generate(engine, ASKS[:1])[0]
        assert answer.adapter == engine.version == versions[-1]
    assert versions[0] == versions[3] and len({*versions}) == 3 and versions[2] == "base"


def test_experts_of_a_gpt_oss_are_switched_too(tmp_path):
    engine = fresh(tmp_path, "gpt_oss")
    base = said(engine)
    folders = [adapter(tmp_path / str(seed), engine, seed, **EXPERTS) for seed in (1, 2)]
    for folder in (*folders, folders[0]):
        engine.use(folder)
        assert said(engine) == as_peft_says(engine, folder) != base
    engine.use(None)
    assert said(engine) == base


def test_an_adapter_may_bring_embeddings_and_head(tmp_path):
    engine = fresh(tmp_path)
    base = said(engine)
    folder = adapter(tmp_path / "a", engine, 1, target_modules=["q_proj"], modules_to_save=["embed_tokens", "lm_head"])
    engine.use(folder)
    assert said(engine) == as_peft_says(engine, folder)
    engine.use(None)
    assert said(engine) == base


def test_requests_for_different_weights_are_answered_together_and_change_nothing(tmp_path):
    engine = fresh(tmp_path)
    live, other = (adapter(tmp_path / name, engine, seed) for name, seed in (("a", 1), ("b", 2)))
    base = said(engine)
    engine.use(live)
    expected = said(engine)
    asks = [replace(ASKS[0], weights=other), ASKS[0], replace(ASKS[0], weights=None), ASKS[1]]
    answers = generate(engine, asks)
    assert [answer.completion_ids for answer in answers[1:]] == [expected[0], base[0], expected[1]]
    assert answers[0].completion_ids == as_peft_says(engine, other)[0]
    assert answers[0].adapter != answers[1].adapter == engine.version
    assert said(engine) == expected


def test_asking_for_other_weights_does_not_disturb_training(tmp_path):
    """While an adapter is trained, what is trainable stays so, and what is not stays frozen."""
    from peft import LoraConfig, get_peft_model

    engine = fresh(tmp_path)
    other = adapter(tmp_path / "a", engine, 1)
    engine.model = get_peft_model(engine.model, LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False))
    trained = {name for name, value in engine.model.named_parameters() if value.requires_grad}
    live = said(engine)
    assert said(engine, weights=other) == as_peft_says(engine, other)
    assert {name for name, value in engine.model.named_parameters() if value.requires_grad} == trained
    assert said(engine) == live


def test_only_a_few_adapters_stay_loaded_and_the_live_one_does(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_MAX_LOADED_ADAPTERS", 2)
    engine = fresh(tmp_path)
    folders = [adapter(tmp_path / str(seed), engine, seed) for seed in range(4)]
    engine.use(folders[0])
    live = said(engine)
    for folder in folders[1:]:
        said(engine, weights=folder)
        assert len(engine.model.peft_config) <= 2
    assert said(engine) == live
    assert said(engine, weights=folders[1]) == as_peft_says(engine, folders[1]), "it is loaded again"


def test_a_folder_that_is_written_again_is_another_adapter(tmp_path):
    engine = fresh(tmp_path)
    first = engine.use(adapter(tmp_path / "a", engine, 1))
    changed = adapter(tmp_path / "a", engine, 2)
    assert engine.use(changed) != first
    assert said(engine) == as_peft_says(engine, changed)


def test_adapters_are_loaded_anew_after_training_took_peft_off(tmp_path):
    engine = fresh(tmp_path)
    folder = adapter(tmp_path / "a", engine, 1)
    engine.use(folder)
    engine.model = engine.model.unload()
    engine.use(folder)
    assert said(engine) == as_peft_says(engine, folder)


def test_an_adapter_of_another_base_is_refused(tmp_path):
    engine = fresh(tmp_path)
    base = said(engine)
    foreign = adapter(tmp_path / "a", engine, 1, base_sha256="0" * 64)
    with pytest.raises(PolicyError, match="base"):
        engine.use(foreign)
    assert (said(engine), engine.version) == (base, "base")


def test_an_adapter_of_a_service_is_used_where_the_user_vouches_for_the_base(tmp_path):
    engine = fresh(tmp_path)
    folder = adapter(tmp_path / "a", engine, 1, base_sha256="0" * 64, service={"state": "tinker://m/weights/final"})
    with pytest.raises(
        PolicyError, match=r"trained by a service on .*target_agent\.policy\.trust_base=true"
    ) as refusal:
        engine.use(folder)
    assert "\n" not in str(refusal.value)
    trusting = PolicyEngine(spec(engine.base_id, trust_base=True), tmp_path, no_texts)
    trusting.use(folder)
    assert said(trusting) == as_peft_says(engine, folder) != said(engine)
    own = adapter(tmp_path / "b", engine, 2, base_sha256="0" * 64)  # trained here, on another base
    with pytest.raises(PolicyError, match=r"sha256 0000.*not for"):
        trusting.use(own)


@pytest.mark.parametrize("damage", ["no mark", "cut", "empty"])
def test_an_adapter_that_is_not_whole_is_refused_and_leaves_the_model_as_it_was(damage, tmp_path):
    engine = fresh(tmp_path)
    base, folder = said(engine), adapter(tmp_path / "a", engine, 1)
    weights = folder / "adapter_model.safetensors"
    if damage == "no mark":
        (folder / "sia_adapter.json").unlink()
    else:
        weights.write_bytes(weights.read_bytes()[: 1000 if damage == "cut" else 0])
    with pytest.raises(PolicyError, match=r"sia_adapter\.json|cannot be read") as refused:
        engine.use(folder)
    assert "\n" not in str(refused.value)
    assert said(engine) == base
    assert not any("lora" in name for name, _ in engine.model.named_modules())
