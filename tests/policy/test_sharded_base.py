"""A base that is divided over processes: what is read, from which layouts of files, and in how much memory."""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="training needs torch")
pytest.importorskip("trl", reason="training needs trl")
pytest.importorskip("torch.testing._internal.distributed.fake_pg")

import torch.distributed as dist

from sia_runner.config.training import LoraSettings
from sia_runner.errors import TrainingError
from sia_runner.policy import sharded_base
from sia_runner.policy.base_model import load_base
from sia_runner.policy.lora import attached_adapter
from sia_runner.policy.sharded_base import shard_and_load, weightless_model
from sia_runner.policy.sharded_learner import ShardedModel, sharded_learner
from sia_runner.wire.policy import PolicyError
from tests.policy.checkpoints import checkpoint, spec
from tests.training.test_gpt_oss import quantised

LORA = LoraSettings(rank=4, alpha=8)


@contextmanager
def process_of(processes: int, rank: int) -> Iterator[None]:
    """Stand for one of several processes; what they would send to each other is not needed to load."""
    from torch.testing._internal.distributed.fake_pg import FakeStore

    dist.init_process_group("fake", store=FakeStore(), rank=rank, world_size=processes)
    try:
        yield
    finally:
        dist.destroy_process_group()


def loaded_parts(folder: Path, processes: int, dtype: str = "float32") -> tuple[dict[str, Any], dict[str, Any]]:
    """Load the base in each process; return the parts of each parameter joined, and the buffers."""
    parts: dict[str, list[Any]] = {}
    buffers: dict[str, Any] = {}
    for rank in range(processes):
        with process_of(processes, rank):
            policy = ShardedModel(weightless_model(folder, dtype), None, str(folder), "")
            with attached_adapter(policy, LORA, None, 0) as model:
                shard_and_load(model, folder, "cpu")
                base = model.get_base_model()
                for name, weight in base.named_parameters():
                    if "lora_" not in name:
                        parts.setdefault(name.replace(".base_layer", ""), []).append(weight.to_local().clone())
                buffers = dict(base.named_buffers())
    return {name: torch.cat(some) for name, some in parts.items()}, buffers


def qwen3_moe(folder: Path) -> Path:
    """Its files have an entry for each matrix of each expert."""
    from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

    shape = {"hidden_size": 32, "intermediate_size": 64, "moe_intermediate_size": 48, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16, "num_experts": 5}
    torch.manual_seed(0)
    model = Qwen3MoeForCausalLM(Qwen3MoeConfig(vocab_size=50, num_experts_per_tok=2, **shape, **heads))
    checkpoint(folder)
    model.save_pretrained(folder)
    return folder


LAYOUTS = {
    "qwen3": (lambda folder: checkpoint(folder), "float32"),
    "tied": (lambda folder: tied(folder), "float32"),
    "gpt_oss": (lambda folder: checkpoint(folder, "gpt_oss"), "bfloat16"),
    "mxfp4": (lambda folder: four_bits(folder), "bfloat16"),
    "mxfp4 in float32": (lambda folder: four_bits(folder), "float32"),
    "an entry for each expert": (qwen3_moe, "float32"),
}


def tied(folder: Path) -> Path:
    from transformers import AutoModelForCausalLM

    config = AutoModelForCausalLM.from_pretrained(checkpoint(folder)).config
    config.tie_word_embeddings = True
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return folder


def four_bits(folder: Path) -> Path:
    quantised(checkpoint(folder, "gpt_oss"))
    return folder


@pytest.mark.parametrize("layout", list(LAYOUTS))
def test_three_processes_have_what_transformers_loads_and_each_a_third(layout, tmp_path, monkeypatch):
    monkeypatch.setattr(sharded_base, "_BLOCK_BYTES", 4096)  # several blocks of a parameter
    make, dtype = LAYOUTS[layout]
    folder = make(tmp_path / "base")
    expected = load_base(str(folder), "cpu", dtype).model
    parts, buffers = loaded_parts(folder, 3, dtype)
    weights = dict(expected.named_parameters())
    assert parts.keys() == weights.keys()
    for name, weight in weights.items():
        assert parts[name].dtype == weight.dtype and torch.equal(parts[name], weight), name
    assert {name: buffer.tolist() for name, buffer in buffers.items()} == {
        name: buffer.tolist() for name, buffer in expected.named_buffers()
    }


def test_a_new_adapter_is_that_of_a_whole_base(tmp_path):
    folder = checkpoint(tmp_path / "base", "gpt_oss")
    loaded = load_base(str(folder), "cpu", "float32")
    drawn = []
    for model in (loaded.model, weightless_model(folder, "float32")):
        with attached_adapter(ShardedModel(model, None, "", ""), LORA, None, 7) as adapted:
            drawn.append({name: weight for name, weight in adapted.named_parameters() if weight.requires_grad})
    assert drawn[0].keys() == drawn[1].keys()
    assert all(torch.equal(weight, drawn[1][name]) for name, weight in drawn[0].items())


def renamed(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    save_file({f"other.{name}": tensor for name, tensor in tensors.items()}, folder / "model.safetensors")


def tied_by_name_only(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": True}))


def other_format(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def other_quantisation(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "quantization_config": {"quant_method": "gptq"}}))


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (renamed, r"has no model\.embed_tokens\.weight"),
        (tied_by_name_only, r"ties lm_head\.weight to model\.embed_tokens\.weight, but their weights differ"),
        (other_format, "holds no safetensors files"),
        (other_quantisation, "stored as gptq; trainer.shards reads mxfp4 only"),
    ],
)
def test_files_that_are_not_read_are_refused_by_name(spoil, says, tmp_path):
    folder = checkpoint(tmp_path / "base")
    spoil(folder)
    with pytest.raises(PolicyError, match=says) as refused:
        loaded_parts(folder, 2)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("lora", "says"),
    [
        (
            LoraSettings(rank=4, targets=["q_proj"], parameters=["mlp.experts.down_proj"]),
            "gate_up_proj and .*together",
        ),
        (LoraSettings(rank=4, save=["lm_head"]), "also trains .*lm_head"),
    ],
)
def test_adapters_that_are_not_trained_are_refused_by_name(lora, says, tmp_path):
    policy = spec(checkpoint(tmp_path / "base", "gpt_oss"))
    settings: dict[str, Any] = {"critic": False, "work": tmp_path, "serve": lambda write: ""}
    with process_of(2, 0), pytest.raises(TrainingError, match=says) as refused:
        with sharded_learner(policy, "b" * 64, lora, None, 0, **settings):
            pass
    assert "\n" not in str(refused.value)


IN_LITTLE_MEMORY = """
import resource, sys
from pathlib import Path

import torch
from tests.policy.test_sharded_base import LORA, process_of, weightless_model, attached_adapter, ShardedModel
from sia_runner.policy.base_model import load_base
from sia_runner.policy.sharded_base import shard_and_load

folder, how, spare = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
torch.set_num_threads(1)
used = lambda: int(Path("/proc/self/status").read_text().split("VmData:")[1].split()[0]) * 1024

def limit():
    resource.setrlimit(resource.RLIMIT_DATA, (used() + spare, used() + spare))

with process_of(4, 1):
    policy = ShardedModel(weightless_model(folder, "bfloat16"), None, "", "")
    with attached_adapter(policy, LORA, None, 0) as model:
        limit()
        if how == "divided":
            shard_and_load(model, folder, "cpu")
            held = sum(w.to_local().nbytes for n, w in model.named_parameters() if "lora_" not in n)
            print("loaded", held, used())
        else:
            load_base(str(folder), "cpu", "bfloat16")
            print("loaded")
"""


@pytest.mark.slow
def test_a_process_needs_its_shard_and_two_layers_and_the_whole_base_does_not_fit_into_that(tmp_path):
    layers, experts, hidden = 8, 32, 256
    folder = four_bit_experts(tmp_path / "base", layers, experts, hidden)
    whole = 2 * sum(weight.numel() for weight in weightless_model(folder, "bfloat16").parameters())
    layer = 2 * experts * 3 * hidden * hidden
    spare = whole // 4 + 2 * layer
    assert whole > 1.8 * spare

    def attempt(how: str) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "-c", IN_LITTLE_MEMORY, str(folder), how, str(spare)]
        return subprocess.run(command, capture_output=True, text=True, timeout=250)

    divided, at_once = attempt("divided"), attempt("at once")
    assert divided.stdout.startswith("loaded"), divided.stderr[-2000:]
    assert int(divided.stdout.split()[1]) == pytest.approx(whole / 4, rel=0.01)
    assert "loaded" not in at_once.stdout and "emory" in at_once.stderr


def four_bit_experts(folder: Path, layers: int, experts: int, hidden: int) -> Path:
    """A gpt-oss whose files hold its experts in 4 bits, written layer by layer."""
    from safetensors.torch import save_file
    from transformers import GptOssConfig

    checkpoint(folder, "gpt_oss")
    shape = {"num_hidden_layers": layers, "hidden_size": hidden, "intermediate_size": hidden}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32, "num_local_experts": experts}
    config = GptOssConfig(vocab_size=300, num_experts_per_tok=2, pad_token_id=0, **shape, **heads)
    config.save_pretrained(folder)
    (folder / "model.safetensors").unlink()
    tensors: dict[str, Any] = {}
    for name, weight in weightless_model(folder, "bfloat16").named_parameters():
        if name.endswith(("experts.gate_up_proj", "experts.down_proj")):
            _, inputs, outputs = weight.shape
            blocks = torch.randint(0, 256, (experts, outputs, inputs // 32, 16), dtype=torch.uint8)
            tensors |= {f"{name}_blocks": blocks, f"{name}_scales": torch.full(blocks.shape[:-1], 120).byte()}
        else:
            tensors[name] = torch.zeros(weight.shape, dtype=torch.bfloat16)
    for layer in range(layers):
        own = {name: tensors.pop(name) for name in list(tensors) if f"layers.{layer}." in name}
        save_file(own, folder / f"model-{layer}.safetensors", metadata={"format": "pt"})
    save_file(tensors, folder / "model-rest.safetensors", metadata={"format": "pt"})
    write_index(folder)
    plain = ["model.layers.*.self_attn", "model.layers.*.mlp.router", "model.embed_tokens", "lm_head"]
    stored = {"quant_method": "mxfp4", "modules_to_not_convert": plain}
    config_file = folder / "config.json"
    config_file.write_text(json.dumps({**json.loads(config_file.read_text()), "quantization_config": stored}))
    return folder


def write_index(folder: Path) -> None:
    """The table of several files, which transformers needs."""
    from safetensors import safe_open

    files: dict[str, str] = {}
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, "pt") as tensors:
            files |= dict.fromkeys(tensors.keys(), file.name)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": files}))
