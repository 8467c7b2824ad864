"""A small model of gpt-oss's shape through the whole life of an adapter: loaded, trained, reloaded, merged, served.

Sliding and full attention in turn, experts in one tensor per layer, a router; the real one is the same, 3,000 times
wider and deeper. Its 4-bit experts (MXFP4) are tested as far as a CPU can.
"""

import json
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="the weights lever needs the extra `training`")
pytest.importorskip("trl", reason="the weights lever needs the extra `training`")

from sia_runner.config.training import LoraSettings, PolicyConfig
from sia_runner.errors import TrainingError
from sia_runner.policy import base_model, lora
from sia_runner.policy.engine import PolicyEngine
from sia_runner.training import drivers
from sia_runner.wire.adapter_files import CONFIG_FILE, WEIGHTS_FILE
from tests.policy.checkpoints import ask, generate, no_texts
from tests.training import toy
from tests.training.toy_base import on_disk, text_of

ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]
EXPERTS = ["mlp.experts.down_proj", "mlp.experts.gate_up_proj"]
IDS = torch.tensor([toy.prompt_of(unit) for unit in toy.HELD_OUT[:16]])


def gpt_oss(**changes):
    from transformers import GptOssConfig, GptOssForCausalLM

    torch.manual_seed(0)
    config = GptOssConfig(
        vocab_size=toy.VOCABULARY,
        hidden_size=64,
        intermediate_size=64,
        num_hidden_layers=2,
        num_local_experts=4,
        num_experts_per_tok=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        sliding_window=4,  # shorter than the prompts, so that it matters
        layer_types=["sliding_attention", "full_attention"],
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        max_position_embeddings=64,
        initializer_range=0.1,
        bos_token_id=2,
        eos_token_id=toy.EOS,
        pad_token_id=toy.PAD,
        **changes,
    )
    return GptOssForCausalLM(config).eval()


@pytest.fixture(scope="module", params=[False, True], ids=["untied", "tied embeddings"])
def base(request, tmp_path_factory) -> Path:
    model = toy.warm(gpt_oss(tie_word_embeddings=request.param))
    return on_disk(model, tmp_path_factory.mktemp("gpt_oss") / "base")


@pytest.fixture(scope="module")
def trained(base, tmp_path_factory):
    """A few steps of the real online driver on a base that the product loaded."""
    loaded = base_model.load_base(str(base), "cpu", "float32")
    policy = toy.ToyPolicy(loaded.model, loaded.tokenizer, str(base), loaded.sha256)
    before = logits(policy.model)
    shape = LoraSettings(rank=8, alpha=16, targets=ATTENTION, parameters="auto")
    algorithm = toy.settings("grpo", lora=shape, steps=12, learning_rate=2e-3)
    one = toy.assignment(policy, algorithm, tmp_path_factory.mktemp("training"))
    done = drivers.train(one)
    assert torch.equal(logits(policy.model), before), "the base is as it was"
    return one, done


def logits(model):
    with torch.no_grad():
        return model.eval()(input_ids=IDS).logits


def fresh(base: Path):
    return base_model.load_base(str(base), "cpu", "float32")


def with_adapter(base: Path, one):
    loaded = fresh(base)
    return lora.load_adapter(loaded.model, one.out, loaded.sha256, "served")


def test_the_reward_rises(trained):
    _, done = trained
    assert done.steps == 12
    assert sum(done.reward[-4:]) / 4 > sum(done.reward[:4]) / 4 + 0.1, done.reward


def test_attention_and_experts_have_both_changed_and_the_router_has_no_adapter(trained):
    from safetensors.torch import load_file

    one, _ = trained
    tensors = load_file(one.out / WEIGHTS_FILE)
    moved = {name for name, tensor in tensors.items() if ".lora_B." in name and tensor.abs().max() > 1e-4}
    for layer in (0, 1):
        of_layer = [name for name in moved if f"layers.{layer}." in name]
        for target in ATTENTION:
            assert any(target in name for name in of_layer), (layer, target)
        assert sum("experts" in name for name in of_layer) == 2, (layer, of_layer)
    assert not any("router" in name for name in tensors)
    config = json.loads((one.out / CONFIG_FILE).read_text())
    assert sorted(config["target_parameters"]) == EXPERTS
    assert config.get("lora_dropout", 0) == 0  # a default is not written


def test_reloaded_onto_a_fresh_base_it_gives_the_logits_that_were_trained(base, trained):
    """Those of the adapter that the driver held: its weights on disk, put back where training had them."""
    from safetensors.torch import load_file

    one, _ = trained
    policy = toy.ToyPolicy(fresh(base).model, one.policy.tokenizer, str(base), one.policy.base_sha256)
    with lora.attached_adapter(policy, one.algorithm.lora, None, seed=5) as model:
        lora.restore_adapter_state(model, load_file(one.out / WEIGHTS_FILE))
        expected = logits(model)
    assert torch.equal(logits(with_adapter(base, one)), expected)
    assert not torch.allclose(expected, logits(fresh(base).model), atol=1e-2)


def test_merged_it_is_a_plain_gpt_oss_with_equal_outputs(base, trained):
    one, _ = trained
    expected = logits(with_adapter(base, one))
    merged = lora.merge_adapter(fresh(base).model, one.out, one.policy.base_sha256)
    assert type(merged).__name__ == "GptOssForCausalLM"
    assert torch.allclose(logits(merged), expected, atol=1e-4)
    assert torch.equal(logits(merged).argmax(-1), expected.argmax(-1))


def test_adapter_and_exported_model_are_served_with_equal_greedy_answers(base, trained, tmp_path):
    one, _ = trained
    loaded = fresh(base)
    policy = toy.ToyPolicy(loaded.model, loaded.tokenizer, str(base), loaded.sha256)
    lora.export_merged_model(policy, one.out, tmp_path / "merged")
    adapted, merged = (PolicyEngine(spec(folder), tmp_path, no_texts) for folder in (base, tmp_path / "merged"))
    asks = [ask(text_of(unit), max_tokens=6) for unit in toy.HELD_OUT[:48]]
    plain = answers(adapted, asks)
    adapted.use(one.out)
    assert answers(adapted, asks) == answers(merged, asks) != plain


def spec(folder: Path) -> PolicyConfig:
    return PolicyConfig(base=str(folder), device="cpu")


def answers(engine: PolicyEngine, asks):
    made = generate(engine, asks)
    assert [one.prompt_ids for one in made] == [toy.prompt_of(unit) for unit in toy.HELD_OUT[: len(asks)]]
    return [one.completion_ids for one in made]


def test_all_linear_takes_attention_and_neither_router_nor_head():
    config = lora.lora_config(LoraSettings(), gpt_oss())
    assert sorted(config.target_modules) == sorted(ATTENTION)
    assert config.target_parameters == EXPERTS


def test_a_router_that_is_a_linear_layer_is_left_out_too():
    from transformers import AutoModelForCausalLM, Llama4TextConfig

    torch.manual_seed(0)
    shape = {"hidden_size": 32, "intermediate_size": 32, "intermediate_size_mlp": 32, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 16, "num_local_experts": 2}
    model = AutoModelForCausalLM.from_config(Llama4TextConfig(vocab_size=32, **shape, **heads))
    assert any(name.endswith("router") and isinstance(part, torch.nn.Linear) for name, part in model.named_modules())
    config = lora.lora_config(LoraSettings(), model)
    assert {"q_proj", "down_proj"} <= set(config.target_modules) and "router" not in config.target_modules
    assert any("experts" in name for name in config.target_parameters)


@pytest.mark.parametrize("parameters", ["auto", EXPERTS])
def test_dropout_on_experts_is_refused_by_name(parameters):
    policy = toy.ToyPolicy(gpt_oss(), toy.small_tokenizer())
    shape = LoraSettings(rank=2, alpha=2, dropout=0.1, parameters=parameters)
    with pytest.raises(
        TrainingError, match=r"trainer\.lora\.dropout=0\.1.*mlp\.experts\.down_proj.*allowed: 0"
    ) as refused:
        with lora.attached_adapter(policy, shape, None, seed=0):
            pass
    assert "\n" not in str(refused.value) and not hasattr(policy.model, "peft_config")


def test_dropout_is_fine_where_the_experts_are_left_alone():
    policy = toy.ToyPolicy(gpt_oss(), toy.small_tokenizer())
    with lora.attached_adapter(
        policy, LoraSettings(rank=2, alpha=2, dropout=0.1, parameters=[]), None, seed=0
    ) as model:
        assert not [name for name, p in model.named_parameters() if p.requires_grad and "experts" in name]


# ---- MXFP4: as openai/gpt-oss-120b lies on the hub

FP4 = torch.tensor([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0])


def quantised(folder: Path) -> dict[str, "torch.Tensor"]:
    """Replace the experts of a checkpoint on disk by 4-bit ones; the values that they stand for, by name.

    Two numbers (E2M1) a byte, the low half first; 32 of them share a power of two (E8M0, bias 127). On disk the axes
    are (expert, output, input); in the model the last two are the other way round."""
    from safetensors.torch import load_file, save_file

    draw = torch.Generator().manual_seed(3)
    tensors, meant = load_file(folder / "model.safetensors"), {}
    for name in [name for name in tensors if name.endswith(("experts.gate_up_proj", "experts.down_proj"))]:
        experts, inputs, outputs = tensors.pop(name).shape
        blocks = torch.randint(0, 256, (experts, outputs, inputs // 32, 16), generator=draw, dtype=torch.uint8)
        scales = torch.randint(120, 126, (experts, outputs, inputs // 32), generator=draw, dtype=torch.uint8)
        tensors |= {f"{name}_blocks": blocks, f"{name}_scales": scales}
        pairs = torch.stack([FP4[(blocks & 15).long()], FP4[(blocks >> 4).long()]], -1).flatten(-2)
        value = pairs * torch.exp2(scales.float() - 127)[..., None]
        meant[name] = value.reshape(experts, outputs, inputs).transpose(1, 2)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    kept = ["model.layers.*.self_attn", "model.layers.*.mlp.router", "model.embed_tokens", "lm_head"]
    config["quantization_config"] = {"quant_method": "mxfp4", "modules_to_not_convert": kept}
    (folder / "config.json").write_text(json.dumps(config))
    return meant


def merged_anew(folder: Path, one):
    loaded = base_model.load_base(str(folder), "cpu", "bfloat16")
    return lora.merge_adapter(loaded.model, one.out, loaded.sha256)


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_four_bit_experts_become_what_they_stand_for(dtype, tmp_path):
    folder = on_disk(gpt_oss(), tmp_path / "base")
    meant = quantised(folder)
    model = base_model.load_base(str(folder), "cpu", dtype).model
    weights = dict(model.named_parameters())
    assert len(meant) == 4
    for name, value in meant.items():
        assert weights[name].dtype == getattr(torch, dtype)
        assert torch.equal(weights[name].float(), value), name  # 4 bits and a power of two fit into bfloat16 exactly


def test_transformers_is_told_to_dequantise_also_where_it_would_find_kernels_for_four_bits(tmp_path, monkeypatch):
    """On a GPU with those kernels it would keep the experts in 4 bits, which cannot be trained."""
    from transformers import AutoModelForCausalLM

    folder = on_disk(gpt_oss(), tmp_path / "base")
    quantised(folder)
    seen, real = [], AutoModelForCausalLM.from_pretrained
    monkeypatch.setattr(
        AutoModelForCausalLM, "from_pretrained", lambda *args, **given: seen.append(given) or real(*args, **given)
    )
    base_model.load_base(str(folder), "cpu", "bfloat16")
    assert seen[0]["quantization_config"].dequantize


def test_a_base_of_four_bits_is_trained_in_bfloat16_and_exported_without_them(tmp_path):
    folder = on_disk(gpt_oss(), tmp_path / "base")
    quantised(folder)
    loaded = base_model.load_base(str(folder), "cpu", "bfloat16")
    policy = toy.ToyPolicy(loaded.model, loaded.tokenizer, str(folder), loaded.sha256)
    shape = LoraSettings(rank=4, alpha=8, targets=ATTENTION)
    one = toy.assignment(policy, toy.settings("grpo", lora=shape, steps=2, group_size=16), tmp_path)
    assert drivers.train(one).steps == 2
    lora.export_merged_model(
        policy, one.out, tmp_path / "out"
    )  # uses up the policy's model, which is the merged one now
    again = base_model.load_base(str(tmp_path / "out"), "cpu", "bfloat16").model
    assert torch.equal(logits(again), logits(merged_anew(folder, one)))
    assert "quantization_config" not in json.loads((tmp_path / "out" / "config.json").read_text())
