"""Which bases can be loaded, and how they are told apart."""

import hashlib
import json

import pytest

torch = pytest.importorskip("torch", reason="the training extra is not installed")

from sia_runner.policy import base_model
from sia_runner.policy.base_model import architecture, load_base, weights_sha256
from sia_runner.policy.engine import PolicyEngine
from sia_runner.wire.failures import CallError
from sia_runner.wire.policy import PolicyError
from tests.policy.checkpoints import adapter, ask, checkpoint, generate, no_texts, spec


def test_the_bases_hash_is_that_of_its_weights(tmp_path):
    first, same, other = (checkpoint(tmp_path / name, seed=seed) for name, seed in (("a", 1), ("b", 1), ("c", 2)))
    assert weights_sha256(first) == weights_sha256(same) != weights_sha256(other)


def test_files_of_the_hubs_cache_are_not_read_again(tmp_path):
    """They are links to blobs that have their hash as a name."""
    plain = checkpoint(tmp_path / "plain")
    name = hashlib.sha256((plain / "model.safetensors").read_bytes()).hexdigest()
    cached = tmp_path / "cached"
    cached.mkdir()
    (tmp_path / name).write_bytes(b"not read")
    (cached / "model.safetensors").symlink_to(tmp_path / name)
    assert weights_sha256(cached) == weights_sha256(plain)


def test_a_base_in_bfloat16_is_loaded_as_such(tmp_path):
    base = load_base(str(checkpoint(tmp_path / "base")), "cpu", "bfloat16")
    assert base.model.dtype == torch.bfloat16 and base.context == 96


@pytest.mark.parametrize(
    ("flags", "dtype"), [("fpu sse avx512_bf16 sha", torch.bfloat16), ("fpu sse avx512f sha", torch.float32)]
)
def test_auto_is_bfloat16_where_the_processor_has_instructions_for_it(tmp_path, monkeypatch, flags, dtype):
    (tmp_path / "cpuinfo").write_text(f"processor : 0\nflags : {flags}\n")
    monkeypatch.setattr(base_model, "_PROCESSOR", tmp_path / "cpuinfo")
    assert load_base(str(checkpoint(tmp_path / "base")), "cpu", "auto").model.dtype == dtype


def test_a_base_in_bfloat16_answers_and_its_logprobs_are_those_of_a_forward_pass(tmp_path):
    engine = PolicyEngine(spec(checkpoint(tmp_path / "base"), dtype="bfloat16"), tmp_path, no_texts)
    engine.use(adapter(tmp_path / "adapter", engine, 1))
    for answer in generate(engine, [ask(text, temperature=1.0, seed=1, max_tokens=12) for text in ("1+1=", "hello")]):
        sampled = answer
        ids = torch.tensor([[*sampled.prompt_ids, *sampled.completion_ids]])
        with torch.no_grad():
            logprob_tv = engine.model(ids).logits[0].double().log_softmax(-1)
        start = len(sampled.prompt_ids)
        expected = [logprob_tv[start - 1 + t, token].item() for t, token in enumerate(sampled.completion_ids)]
        assert sampled.logprobs == pytest.approx(expected, abs=0.15), "8 bits of mantissa"


def test_nothing_of_a_base_is_trainable_and_it_is_ready_to_answer(tmp_path):
    model = load_base(str(checkpoint(tmp_path / "base")), "cpu", "float32").model
    assert not model.training and not any(parameter.requires_grad for parameter in model.parameters())


def test_a_model_may_have_several_end_marks(tmp_path):
    folder = checkpoint(tmp_path / "base")
    settings = json.loads((folder / "generation_config.json").read_text())
    (folder / "generation_config.json").write_text(json.dumps(settings | {"eos_token_id": [7, 9]}))
    base = load_base(str(folder), "cpu", "float32")
    assert base.end_ids == {7, 9, base.tokenizer.eos_token_id}


def damage(folder, how):
    if how == "no config":
        (folder / "config.json").unlink()
    elif how == "no chat template":
        (folder / "chat_template.jinja").unlink()
    elif how == "no weights":
        (folder / "model.safetensors").unlink()


@pytest.mark.parametrize("how", ["no config", "no chat template", "no weights"])
def test_a_base_that_is_not_whole_is_refused_in_one_line(how, tmp_path):
    folder = checkpoint(tmp_path / "base")
    damage(folder, how)
    with pytest.raises(PolicyError, match="cannot be loaded|no chat template") as refused:
        PolicyEngine(spec(folder), tmp_path, no_texts)
    assert "\n" not in str(refused.value) and str(folder) in str(refused.value)


def test_a_base_that_is_neither_folder_nor_model_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(PolicyError, match="hub"):
        PolicyEngine(spec(tmp_path / "nowhere"), tmp_path, no_texts)


def test_a_gpu_that_is_not_there_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    folder = checkpoint(tmp_path / "base")
    with pytest.raises(PolicyError, match="device=cuda") as refused:
        load_base(str(folder), "cuda", "float32")
    assert "\n" not in str(refused.value)
    with pytest.raises(PolicyError, match="device=cuda"):
        load_base(str(tmp_path / "not even looked for"), "cuda", "bfloat16")
    assert load_base(str(folder), "auto", "float32").model.device.type == "cpu"


def test_a_missing_package_is_named_with_the_extra(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "peft" else object())
    with pytest.raises(PolicyError, match=r"peft.*sia-runner\[training\]"):
        PolicyEngine(spec(tmp_path), tmp_path, no_texts)


def with_tokens_beyond_its_embedding(folder):
    """A base whose tokenizer has a token more than the model has embeddings, as when somebody added one."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(checkpoint(folder))
    tokenizer.add_special_tokens({"pad_token": "<added>"})
    tokenizer.save_pretrained(folder)
    return tokenizer


def test_a_pad_token_beyond_the_embedding_is_replaced_and_changes_no_answer(tmp_path):
    plain = PolicyEngine(spec(checkpoint(tmp_path / "plain")), tmp_path, no_texts)
    with_tokens_beyond_its_embedding(tmp_path / "base")
    engine = PolicyEngine(spec(tmp_path / "base"), tmp_path, no_texts)
    asks = [ask(text, temperature=1.0, seed=2) for text in ("1+1=", "a longer prompt than that")]
    expected = generate(plain, asks)
    assert [one.completion_ids for one in generate(engine, asks)] == [one.completion_ids for one in expected]


def test_a_prompt_with_a_token_beyond_the_embedding_is_refused_alone(tmp_path):
    """On a GPU the look-up would end the whole process."""
    with_tokens_beyond_its_embedding(tmp_path / "base")
    engine = PolicyEngine(spec(tmp_path / "base"), tmp_path, no_texts)
    with pytest.raises(CallError, match="<added>") as refused:
        engine.prompt_ids(ask("what is <added>?"))
    assert refused.value.kind == "bad_request"


def test_a_chat_template_that_writes_such_a_token_is_refused_at_the_start(tmp_path):
    tokenizer = with_tokens_beyond_its_embedding(tmp_path / "base")
    tokenizer.chat_template = "<added>" + tokenizer.chat_template
    tokenizer.save_pretrained(tmp_path / "base")
    with pytest.raises(PolicyError, match="<added>") as refused:
        PolicyEngine(spec(tmp_path / "base"), tmp_path, no_texts)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("kind", ["qwen3", "gpt_oss"])
def test_the_architecture_is_that_of_the_loaded_model_without_its_weights(kind, tmp_path):
    folder = checkpoint(tmp_path / "base", kind)
    shape = architecture(str(folder))
    assert {parameter.device.type for parameter in shape.parameters()} == {"meta"}
    model = load_base(str(folder), "cpu", "float32").model
    assert [name for name, _ in shape.named_parameters()] == [name for name, _ in model.named_parameters()]
