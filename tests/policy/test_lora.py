"""An adapter says where it comes from, loads onto its own base only, and gives the same outputs however it is used."""

import copy
import json
from dataclasses import asdict

import pytest

torch = pytest.importorskip("torch", reason="adapters are tensors")
pytest.importorskip("peft", reason="adapters are PEFT's")

from sia_runner.config.training import LoraSettings
from sia_runner.errors import TrainingError
from sia_runner.policy.lora import (
    TRAINED_ADAPTER,
    adapter_in_weights_dtype,
    attached_adapter,
    export_merged_model,
    load_adapter,
    lora_config,
    merge_adapter,
)
from sia_runner.wire.adapter_files import WEIGHTS_FILE, AdapterOrigin, read_adapter_origin, write_adapter
from tests.training import toy

IDS = torch.tensor([toy.prompt_of(unit) for unit in toy.HELD_OUT[:4]])
SHAPES = {
    "linear layers": ({}, LoraSettings(rank=4, alpha=8)),
    "embeddings and head too": ({}, LoraSettings(rank=4, alpha=8, save=["embed_tokens", "lm_head"])),
    "tied embeddings": ({"tie_word_embeddings": True}, LoraSettings(rank=4, alpha=8, save=["embed_tokens"])),
}


def origin(policy: toy.ToyPolicy, **changes) -> AdapterOrigin:
    values = {
        "base_id": policy.base_id,
        "base_sha256": policy.base_sha256,
        "lora": {"rank": 4},
        "data_sha256": "d",
        "algorithm": "grpo",
        "steps": 3,
        "seed": 1,
        "kl": 0.5,
        "reward": 0.25,
        "parent": None,
    }
    return AdapterOrigin(**{**values, **changes})


def policy_of(model) -> toy.ToyPolicy:
    return toy.ToyPolicy(model, toy.small_tokenizer())


def logits(model):
    with torch.no_grad():
        return model.eval()(input_ids=IDS).logits


def disturb(model) -> None:
    """As training would: every parameter that is trained has moved."""
    torch.manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.05)


@pytest.fixture(params=list(SHAPES))
def trained(request, tmp_path):
    """A disturbed adapter of each shape: a policy, the folder, its logits before and with the adapter."""
    changes, lora = SHAPES[request.param]
    return made(toy.small_model(**changes), lora, tmp_path / "adapter")


def made(model, lora, out):
    policy = policy_of(model)
    before = logits(model)
    with attached_adapter(policy, lora, None, seed=0) as wrapped:
        assert torch.equal(logits(wrapped), before), "a new adapter changes nothing"
        disturb(wrapped)
        after = logits(wrapped)
        write_adapter(wrapped, TRAINED_ADAPTER, out, asdict(origin(policy)))
    assert not torch.allclose(after, before, atol=1e-2)
    return policy, out, before, after


def test_after_training_the_policy_is_the_bare_base_again(trained):
    policy, _, before, _ = trained
    assert torch.equal(logits(policy.model), before)
    assert not hasattr(policy.model, "peft_config")


def test_loading_gives_the_outputs_that_were_saved(trained):
    policy, out, _, after = trained
    assert torch.equal(logits(load_adapter(policy.model, out, policy.base_sha256, "served")), after)


def test_merging_gives_the_same_outputs_without_peft(trained):
    policy, out, _, after = trained
    merged = merge_adapter(policy.model, out, policy.base_sha256)
    assert type(merged).__name__ == "Qwen3ForCausalLM"
    assert torch.allclose(logits(merged), after, atol=1e-4)


def test_an_exported_model_needs_neither_peft_nor_us(trained, tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    policy, out, _, after = trained
    export_merged_model(policy, out, tmp_path / "model")
    assert torch.allclose(logits(AutoModelForCausalLM.from_pretrained(tmp_path / "model")), after, atol=1e-4)
    assert len(AutoTokenizer.from_pretrained(tmp_path / "model")) == toy.VOCABULARY


def test_going_on_from_an_adapter_starts_where_it_ended(trained):
    policy, out, before, after = trained
    with attached_adapter(policy, LoraSettings(rank=2, alpha=2), out, seed=9) as wrapped:  # its own shape is kept
        assert torch.equal(logits(wrapped), after)
        assert any(parameter.requires_grad for parameter in wrapped.parameters())
    assert torch.equal(logits(policy.model), before)


def test_attention_and_experts_of_a_small_gpt_oss(tmp_path):
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
        initializer_range=0.1,
        pad_token_id=toy.PAD,
        eos_token_id=toy.EOS,
        max_position_embeddings=64,
    )
    lora = LoraSettings(
        rank=4,
        alpha=8,
        targets=["q_proj", "k_proj", "v_proj", "o_proj"],
        parameters=["mlp.experts.gate_up_proj", "mlp.experts.down_proj"],
    )
    policy, out, before, after = made(GptOssForCausalLM(config).eval(), lora, tmp_path / "adapter")
    names = adapters_on_disk(out)
    assert any("experts" in name for name in names)
    assert any("q_proj" in name for name in names)
    assert torch.equal(logits(policy.model), before)
    bare = copy.deepcopy(policy.model)
    assert torch.equal(logits(load_adapter(policy.model, out, policy.base_sha256, "served")), after)
    assert torch.allclose(logits(merge_adapter(bare, out, policy.base_sha256)), after, atol=1e-4)


def adapters_on_disk(out) -> list[str]:
    from safetensors import safe_open

    with safe_open(out / WEIGHTS_FILE, "pt") as file:
        return list(file.keys())


def test_another_base_is_refused_in_one_line(trained):
    policy, out, _, _ = trained
    with pytest.raises(TrainingError, match=r"is for toy \(sha256 bbbb.*not for the base") as refusal:
        load_adapter(policy.model, out, "c" * 64, "served")
    assert "\n" not in str(refusal.value)


def test_training_goes_on_from_a_services_adapter_where_the_user_vouches_for_the_base(trained):
    policy, out, _, after = trained
    written = asdict(origin(policy, base_sha256="c" * 64, service={"state": "tinker://model/weights/final"}))
    (out / "sia_adapter.json").write_text(json.dumps(written))
    lora = LoraSettings(rank=4, alpha=8)
    refused = pytest.raises(TrainingError, match=r"trained by a service on toy.*target_agent\.policy\.trust_base=true")
    with refused, attached_adapter(policy, lora, out, 0):
        pass
    policy.trust_base = True
    with attached_adapter(policy, lora, out, 0) as model:
        assert torch.equal(logits(model), after)


def test_a_folder_without_all_parts_is_no_adapter(trained):
    policy, out, _, _ = trained
    (out / WEIGHTS_FILE).unlink()
    with pytest.raises(TrainingError, match=r"adapter_model\.safetensors is missing"):
        load_adapter(policy.model, out, policy.base_sha256, "served")


def test_the_origin_is_what_was_recorded(trained):
    policy, out, _, _ = trained
    assert read_adapter_origin(out) == origin(policy)
    assert json.loads((out / "sia_adapter.json").read_text())["algorithm"] == "grpo"


def test_an_adapter_of_a_service_says_which_one_and_one_from_before_says_nothing_of_it(trained):
    policy, out, _, _ = trained
    written = asdict(origin(policy))
    for service in ({"name": "tinker", "path": "tinker://model/weights/1"}, None):
        fields = (
            written | {"service": service} if service else {key: written[key] for key in written if key != "service"}
        )
        (out / "sia_adapter.json").write_text(json.dumps(fields))
        assert read_adapter_origin(out).service == service


def test_writing_again_replaces_the_folder_and_leaves_nothing_beside_it(tmp_path):
    policy = policy_of(toy.small_model())
    with attached_adapter(policy, LoraSettings(rank=2, alpha=2), None, seed=0) as wrapped:
        write_adapter(wrapped, TRAINED_ADAPTER, tmp_path / "adapter", asdict(origin(policy)))
        write_adapter(wrapped, TRAINED_ADAPTER, tmp_path / "adapter", asdict(origin(policy, steps=4)))
    assert [path.name for path in tmp_path.iterdir()] == ["adapter"]
    assert read_adapter_origin(tmp_path / "adapter").steps == 4


def test_a_target_that_the_model_does_not_have_is_refused_by_name():
    policy = policy_of(toy.small_model())
    with pytest.raises(TrainingError, match="no_such_layer"):
        with attached_adapter(policy, LoraSettings(targets=["no_such_layer"]), None, seed=0):
            pass


@pytest.mark.parametrize("key", ["targets", "save", "parameters"])
def test_what_the_model_does_not_have_is_refused_with_its_key(key):
    with pytest.raises(TrainingError, match=rf"trainer\.lora\.{key}: .*no_such_layer.*q_proj"):
        lora_config(LoraSettings(**{key: ["no_such_layer"]}), toy.small_model())


def test_gpt_2_whose_layers_are_no_linear_ones_is_adapted_and_merged(tmp_path):
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    shape = {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 64, "vocab_size": toy.VOCABULARY}
    model = GPT2LMHeadModel(GPT2Config(**shape, bos_token_id=2, eos_token_id=1, pad_token_id=0))
    config = lora_config(LoraSettings(rank=2), model)
    assert config.target_modules == {"c_attn", "c_proj", "c_fc"} and config.fan_in_fan_out, "else PEFT warns"
    policy, out, _, after = made(model, LoraSettings(rank=2), tmp_path / "adapter")
    merged = merge_adapter(policy.model, out, policy.base_sha256)
    assert torch.allclose(logits(merged), after, atol=1e-4)


def test_the_configuration_on_disk_holds_what_every_version_of_peft_knows(trained):
    _, out, _, _ = trained
    written = json.loads((out / "adapter_config.json").read_text())
    known = {"base_model_name_or_path", "inference_mode", "lora_alpha", "peft_type", "r", "target_modules", "task_type"}
    assert known <= {*written} <= known | {"modules_to_save", "ensure_weight_tying"}
    assert written["r"] == 4 and written["target_modules"] == sorted(written["target_modules"])


def test_the_head_is_trained_whole_or_not_at_all():
    policy = policy_of(toy.small_model())
    with pytest.raises(TrainingError, match=r"put it into trainer\.lora\.save"):
        with attached_adapter(policy, LoraSettings(targets=["lm_head"]), None, seed=0):
            pass
    assert not hasattr(policy.model, "peft_config")


def test_adapters_that_were_served_before_are_served_again_after(trained):
    policy, out, _, after = trained
    policy.model = load_adapter(policy.model, out, policy.base_sha256, "served")
    with attached_adapter(policy, LoraSettings(rank=2, alpha=4), None, seed=0) as wrapped:
        assert not [name for name, p in wrapped.named_parameters() if p.requires_grad and "layers" not in name]
        disturb(wrapped)
        assert not torch.allclose(logits(wrapped), after, atol=1e-2)
    assert torch.equal(logits(policy.model), after)
    assert list(policy.model.peft_config) == ["served"]


def effect_shares(policy, wrapped) -> tuple["torch.Tensor", "torch.Tensor"]:
    """The change of the logits by the adapter: by PEFT's way, and in the dtype of the weights."""
    with wrapped.disable_adapter():
        base = logits(wrapped).double()
    usual = logits(wrapped).double() - base
    with adapter_in_weights_dtype(policy.model):
        return usual, logits(wrapped).double() - base


def test_beside_weights_in_bfloat16_an_adapter_has_the_same_effect_while_a_model_samples():
    torch.manual_seed(0)
    policy = policy_of(toy.small_model().bfloat16())
    with attached_adapter(policy, LoraSettings(rank=4, alpha=8), None, seed=0) as wrapped:
        disturb(wrapped)
        usual, other = effect_shares(policy, wrapped)
        assert not torch.equal(other, usual), "the matrices are rounded"
        assert float((other * usual).sum() / (usual * usual).sum()) == pytest.approx(1, abs=0.01)
        assert float((other - usual).norm() / usual.norm()) < 0.05
        assert all("forward" not in vars(module) for module in wrapped.modules()), "training computes PEFT's own way"
        with wrapped.disable_adapter(), adapter_in_weights_dtype(policy.model):
            without = logits(wrapped)
        with wrapped.disable_adapter():
            assert torch.equal(without, logits(wrapped))


def test_beside_weights_in_float32_an_adapter_is_computed_as_ever():
    policy = policy_of(toy.small_model())
    with attached_adapter(policy, LoraSettings(rank=4, alpha=8), None, seed=0) as wrapped:
        disturb(wrapped)
        assert torch.equal(*effect_shares(policy, wrapped))
