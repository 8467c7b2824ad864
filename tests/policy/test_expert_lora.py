"""LoRA of stacked experts as two products: PEFT's numbers and folder, without a tensor of the weights' size."""

import copy
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="training needs torch")
pytest.importorskip("trl", reason="training needs trl")

from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from sia_runner.config.training import LoraSettings
from sia_runner.errors import TrainingError
from sia_runner.policy.expert_lora import replace_expert_forward
from sia_runner.policy.lora import attached_adapter
from sia_runner.policy.sharded_learner import ShardedModel
from sia_runner.wire.adapter_files import adapter_state
from tests.policy.checkpoints import config_of

EXPERTS, HIDDEN, INNER = 4, 64, 128


def base_of(kind: str) -> Any:
    from transformers import AutoModelForCausalLM, Qwen3MoeConfig

    torch.manual_seed(0)
    if kind == "gpt_oss":
        return AutoModelForCausalLM.from_config(config_of("gpt_oss", vocab_size=64, pad_token_id=0))
    shape = {"hidden_size": HIDDEN, "intermediate_size": INNER, "moe_intermediate_size": INNER, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16, "num_experts": EXPERTS}
    config = Qwen3MoeConfig(vocab_size=64, num_experts_per_tok=2, initializer_range=0.1, **shape, **heads)
    return AutoModelForCausalLM.from_config(config)


@pytest.fixture(params=["gpt_oss", "qwen3_moe"])
def adapted(request) -> Any:
    return with_adapter(request.param, 4)


def with_adapter(kind: str, rank: int) -> Any:
    """PEFT's model with an adapter that has an effect."""
    policy = ShardedModel(base_of(kind), None, "", "")
    with attached_adapter(policy, LoraSettings(rank=rank, alpha=8), None, 0) as model:
        kept = copy.deepcopy(model)
    with torch.no_grad():
        for name, weight in kept.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.1)
    return kept


def ids(count: int = 20) -> Any:
    return torch.randint(1, 64, (3, count), generator=torch.Generator().manual_seed(1))


def logits_and_gradients(model: Any) -> tuple[Any, dict[str, Any]]:
    logits = model(input_ids=ids()).logits
    logits.log_softmax(-1)[..., 5].sum().backward()
    return logits.detach(), {name: one.grad for name, one in model.named_parameters() if one.requires_grad}


@pytest.mark.parametrize(("kind", "rank"), [("gpt_oss", 4), ("gpt_oss", 3), ("qwen3_moe", 4)])
def test_logprobs_and_gradients_are_those_of_peft(kind, rank):
    model = with_adapter(kind, rank)
    own = copy.deepcopy(model)
    replace_expert_forward(own)
    (expected, gradients), (found, own_gradients) = logits_and_gradients(model), logits_and_gradients(own)
    assert torch.allclose(found, expected, atol=1e-5)
    assert any("experts" in name for name in gradients) and gradients.keys() == own_gradients.keys()
    for name, gradient in gradients.items():
        assert torch.allclose(own_gradients[name], gradient, rtol=1e-4, atol=1e-5), name
    with own.disable_adapter(), model.disable_adapter(), torch.no_grad():
        bare = own(input_ids=ids()).logits
        assert torch.allclose(bare, model(input_ids=ids()).logits, atol=1e-6)
        assert (bare - found).abs().max() > 0.01


class Largest(TorchDispatchMode):
    """Notes the size of the largest new tensor."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self._given = {weight.untyped_storage().data_ptr() for weight in model.parameters()}
        self.numbers = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        output = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(output):
            if isinstance(leaf, torch.Tensor) and leaf.untyped_storage().data_ptr() not in self._given:
                self.numbers = max(self.numbers, leaf.numel())
        return output


def test_no_tensor_as_large_as_the_experts_weights_is_made(adapted):
    def largest(model: Any) -> int:
        with Largest(model) as noted:
            model(input_ids=ids(4)).logits.sum().backward()
        return noted.numbers

    own = copy.deepcopy(adapted)
    replace_expert_forward(own)
    assert largest(adapted) >= EXPERTS * HIDDEN * 2 * INNER
    assert largest(own) < EXPERTS * HIDDEN * INNER / 2


def test_the_folder_has_the_layout_that_vllm_stacks(adapted):
    """`base_layer` is gate_up_proj: (experts * rank, inputs) and (outputs, rank * experts); the other is down_proj."""
    replace_expert_forward(adapted)
    shapes = {name: tuple(tensor.shape) for name, tensor in adapter_state(adapted, "default").items()}
    layer = "base_model.model.model.layers.1.mlp.experts"
    assert shapes[f"{layer}.base_layer.lora_A.weight"] == (EXPERTS * 4, HIDDEN)
    assert shapes[f"{layer}.base_layer.lora_B.weight"] == (2 * INNER, 4 * EXPERTS)
    assert shapes[f"{layer}.lora_A.weight"] == (EXPERTS * 4, INNER)
    assert shapes[f"{layer}.lora_B.weight"] == (HIDDEN, 4 * EXPERTS)


def test_experts_of_another_make_are_refused_by_name(adapted):
    for module in adapted.modules():
        if type(module).__name__.endswith("Experts"):
            module.has_gate = False
    with pytest.raises(TrainingError, match=r"the experts of .*layers\.0.* allowed: \[\]") as refused:
        replace_expert_forward(adapted)
    assert "\n" not in str(refused.value)
