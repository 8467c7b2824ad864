"""The arithmetic of memory: equal to what torch holds for small models, and to published sizes of the large ones."""

import json
import weakref
from dataclasses import replace

import pytest

from sia_runner.config.training import LoraSettings
from sia_runner.policy import fit
from sia_runner.policy.fit import BUILT_IN, GB, Training, model_shape, plan_gpus, shape_of_config, training_memory
from sia_runner.wire.policy import PolicyError

LARGE = BUILT_IN["gpt-oss-120b"]
ATTENTION = LoraSettings(parameters=[])  # the paper's rank, 32, without experts
SIZES = {
    "vocab_size": 200, "hidden_size": 64, "intermediate_size": 160, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 2048, "tie_word_embeddings": False,
}  # fmt: skip
EXPERTS = {"num_local_experts": 8, "num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 48}
OSS = {
    "num_local_experts": 8, "num_experts_per_tok": 2, "sliding_window": 128,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e4},
}  # fmt: skip


def small(kind, **more):
    """The configuration of a small model, and its shape as its config.json gives it."""
    transformers = pytest.importorskip("transformers")
    config = transformers.AutoConfig.for_model(kind, **{**SIZES, **more})
    return config, shape_of_config(kind, json.loads(config.to_json_string()))


KINDS = [
    ("llama", {}),
    ("llama", {"tie_word_embeddings": True, "attention_bias": True, "mlp_bias": True}),
    ("mistral", {}),
    ("qwen2", {}),
    ("qwen3", {}),
    ("qwen3_moe", EXPERTS),
    ("mixtral", EXPERTS),
    ("gpt_oss", OSS),
]


@pytest.mark.parametrize(("kind", "more"), KINDS, ids=lambda value: value if isinstance(value, str) else "")
def test_parameters_are_those_of_transformers_and_an_adapters_those_of_peft(kind, more):
    torch = pytest.importorskip("torch")
    peft = pytest.importorskip("peft")
    from transformers import AutoModelForCausalLM

    from sia_runner.policy.lora import lora_config

    config, shape = small(kind, **more)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
        assert shape.parameters == sum(weight.numel() for weight in model.parameters())
        lora = LoraSettings(rank=4, alpha=8)
        adapted = peft.get_peft_model(model, lora_config(lora, model))
    trained = sum(weight.numel() for weight in adapted.parameters() if weight.requires_grad)
    assert shape.adapter_parameters(lora) == trained


def test_published_sizes_of_the_large_models_come_out():
    """116.8e9 and 20.9e9 parameters, and files of 65.3 and 13.8 GB: their model cards' figures."""
    assert [round(shape.parameters / 1e9, 1) for shape in BUILT_IN.values()] == [20.9, 116.8]
    assert [round((shape.file_bytes or 0) / GB, 1) for shape in BUILT_IN.values()] == [13.8, 65.2]
    assert model_shape("openai/gpt-oss-120b") is LARGE


def test_one_rank_of_the_large_model_by_hand():
    """6 GPUs: 116.83e9 * 2 / 6; two layers of 128 experts of 3 * 2880 * 2880, embeddings and head of 201088 * 2880."""
    memory = training_memory(LARGE, Training(ATTENTION, shards=6, processes=6))
    assert memory.base / GB == pytest.approx(38.9, abs=0.05)
    layers, outer = 2 * 128 * 3 * 2880 * 2880 * 2, 2 * 201088 * 2880 * 2
    assert memory.gathered == pytest.approx(layers + outer, rel=0.01)
    factors = 36 * 32 * (2 * (2880 + 4096) + 2 * (2880 + 512))
    assert memory.adapter == factors * 4 * 5
    assert memory.total < 80 * GB < training_memory(LARGE, Training(ATTENTION, shards=4, processes=4)).total


def test_eight_gpus_of_80_gb_train_the_large_model_on_six_and_serve_it_on_two():
    plans = {count: plan_gpus(LARGE, Training(ATTENTION), count, 80 * GB) for count in (1, 2, 4, 8, 16)}
    assert [plans[count] for count in (1, 2, 4)] == [None] * 3
    assert plans[8] and (plans[8].train, plans[8].servers, plans[8].each) == (6, 1, 2)
    assert plans[16] and plans[16].train + plans[16].serve == 16


def test_an_adapter_of_all_experts_of_rank_32_does_not_fit_16_gpus_of_80_gb():
    """Each rank holds the whole adapter: 2.1e9 numbers, with gradient and moments."""
    paper = Training(LoraSettings())
    assert LARGE.adapter_parameters(paper.lora) == pytest.approx(2.15e9, rel=0.01)
    assert plan_gpus(LARGE, paper, 16, 80 * GB) is None
    assert plan_gpus(LARGE, paper, 8, 141 * GB)
    assert plan_gpus(LARGE, Training(LoraSettings(rank=8)), 8, 80 * GB)


def test_the_longest_row_is_the_last_that_fits():
    shape, training = BUILT_IN["gpt-oss-20b"], Training(ATTENTION)
    longest = fit.longest_rows(shape, training, 80 * GB)
    assert longest % 128 == 0
    assert training_memory(shape, replace(training, max_length=longest)).total <= 80 * GB
    assert training_memory(shape, replace(training, max_length=longest + 128)).total > 80 * GB
    assert fit.longest_rows(shape, training, 24 * GB) == 0


def test_one_gpu_trains_and_answers_by_turns():
    shape = BUILT_IN["gpt-oss-20b"]
    plan = plan_gpus(shape, Training(ATTENTION), 1, 80 * GB)
    assert plan and plan.servers == 0
    assert plan.memory.answering == fit.ANSWERS * shape.cache_bytes
    assert plan.memory.total == training_memory(shape, replace(Training(ATTENTION), answers=fit.ANSWERS)).total


def test_an_unknown_architecture_is_named_with_those_that_are_understood(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "mamba"}')
    with pytest.raises(PolicyError, match=r"model_type=mamba .* llama, mistral"):
        model_shape(str(tmp_path))
    (tmp_path / "config.json").write_text('{"model_type": "llama", "num_attention_heads": 4}')
    with pytest.raises(PolicyError, match="num_hidden_layers"):
        model_shape(str(tmp_path))


def test_a_folders_files_say_what_a_server_holds(tmp_path):
    config, shape = small("llama")
    config.save_pretrained(tmp_path)
    assert model_shape(str(tmp_path)).file_bytes is None
    index = {"metadata": {"total_size": 4321}, "weight_map": {}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    assert model_shape(str(tmp_path)).file_bytes == 4321
    (tmp_path / "model.safetensors").write_bytes(b"1234567")
    assert model_shape(str(tmp_path)) == replace(shape, name=str(tmp_path), file_bytes=7)


class TestAgainstTorch:
    """What the in-process learner holds, counted as torch's own storages come and go."""

    @pytest.mark.parametrize(("kind", "more"), [("qwen3", {}), ("gpt_oss", OSS)])
    @pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
    def test_base_adapter_and_optimizer_are_exact(self, tmp_path, kind, more, dtype):
        learner, shape = self.learner(tmp_path, kind, more, dtype)
        with learner as learner:
            plan = Training(LoraSettings(rank=4, alpha=8), dtype=dtype)
            memory, model = training_memory(shape, plan), learner._model
            base = [weight for weight in model.parameters() if not weight.requires_grad]
            assert memory.base == sum(weight.nbytes for weight in base)
            self.backward(learner, rows(4, 32))
            learner.step(self.settings())
            state = list(learner._optimizer.state.values())
            moments = sum(entry[name].nbytes for entry in state for name in ("exp_avg", "exp_avg_sq"))
            trained = sum(weight.nbytes for weight in learner._weights)
            assert memory.adapter == 2 * trained + moments  # a gradient is as large as what it is of

    @pytest.mark.parametrize(
        ("kind", "more", "length"),
        [
            ("qwen3", {}, 512),
            ("llama", {"intermediate_size": 640}, 512),
            ("qwen3", {"hidden_size": 256}, 256),
            ("gpt_oss", OSS, 256),
            ("gpt_oss", OSS | {"intermediate_size": 640}, 256),
            ("gpt_oss", OSS | {"num_attention_heads": 16}, 256),
            ("qwen3_moe", EXPERTS, 256),
            ("llama", {"hidden_size": 576, "intermediate_size": 1536, "num_attention_heads": 8, "head_dim": 64}, 128),
            ("gpt_oss", OSS | {"num_local_experts": 96, "num_hidden_layers": 2}, 32),
        ],
    )
    @pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
    def test_activations_are_measured_within_15_percent(self, tmp_path, monkeypatch, kind, more, length, dtype):
        torch = pytest.importorskip("torch")
        from trl.trainer import utils

        monkeypatch.setattr(fit, "HEAD_WIDTH", 256)  # the fixed tile of logits would hide such small models
        monkeypatch.setattr(utils, "_CHUNKED_LOGPROB_CHUNK_SIZE", 256)
        learner, shape = self.learner(tmp_path, kind, more, dtype)
        with learner as learner:
            learner._model.activation_checkpointing_enable()  # as on a GPU
            learner._model.enable_input_require_grads()
            if dtype == "bfloat16":
                monkeypatch.setattr(learner._forward, "_autocast", lambda: torch.autocast("cpu", torch.bfloat16))
            with live_bytes([*learner._model.parameters(), *learner._model.buffers()]) as counted:
                self.backward(learner, rows(4, length))
            gradients = sum(weight.grad.nbytes for weight in learner._weights)
        monkeypatch.setattr(fit, "pass_tokens", lambda max_length, *, fused_attention: 4 * (length - 1))
        memory = training_memory(shape, Training(LoraSettings(rank=4, alpha=8), max_length=length, dtype=dtype))
        assert memory.activations + max(memory.layer, memory.logits) == pytest.approx(
            counted.peak - gradients, rel=0.15
        )

    def learner(self, folder, kind, more, dtype):
        torch = pytest.importorskip("torch")
        pytest.importorskip("trl")
        from transformers import AutoModelForCausalLM

        from tests.training import toy

        config, shape = small(kind, **more)
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config).to(getattr(torch, dtype))
        policy = toy.ToyPolicy(model, toy.small_tokenizer())
        return policy.learner(LoraSettings(rank=4, alpha=8), None, 0, critic=False, work=folder), shape

    def backward(self, learner, batch):
        from sia_runner.wire.learning import TokenWeights

        learner.backward(batch, lambda seen: TokenWeights([row * 0 + 1 for row in seen.logprobs]))

    def settings(self):
        from sia_runner.wire.learning import StepSettings

        return StepSettings(1e-3)


def rows(count, length):
    from sia_runner.wire.learning import TrainingRow

    def tokens(start):
        return tuple((start + 7 * at) % 140 + 4 for at in range(length // 2))

    return [TrainingRow(tokens(row), tokens(row + 50)) for row in range(count)]


def live_bytes(earlier):
    """A mode that counts the bytes of all storages that torch's operations make, from their making to their end."""
    from torch import Tensor
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils._pytree import tree_leaves

    class LiveBytes(TorchDispatchMode):
        def __init__(self):
            super().__init__()
            self.live = self.peak = 0
            self.counted = {tensor.untyped_storage()._cdata for tensor in earlier}

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            result = func(*args, **(kwargs or {}))
            for tensor in tree_leaves(result):
                if not isinstance(tensor, Tensor) or tensor.untyped_storage()._cdata in self.counted:
                    continue
                storage = tensor.untyped_storage()
                self.counted.add(storage._cdata)
                self.live += storage.nbytes()
                self.peak = max(self.peak, self.live)
                weakref.finalize(storage, self.freed, storage._cdata, storage.nbytes())
            return result

        def freed(self, storage, count):
            self.counted.discard(storage)
            self.live -= count

    return LiveBytes()
