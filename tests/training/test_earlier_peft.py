"""Adapters between our PEFT and 0.12 (tests/engines/earlier_peft.sh): each reads what the other wrote."""

import json
import os
import subprocess
from dataclasses import asdict
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="adapters are tensors")
pytest.importorskip("peft", reason="adapters are PEFT's")

from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from sia_runner.config.training import LoraSettings
from sia_runner.training.adapters import TRAINED_ADAPTER, attached_adapter
from sia_runner.wire.adapter_files import load_peft_adapter, write_adapter
from tests.training import toy
from tests.training.test_adapters import IDS, disturb, logits, origin, policy_of

PYTHON = os.environ.get("SIA_EARLIER_PEFT", "")
pytestmark = pytest.mark.skipif(not PYTHON, reason="no earlier PEFT: tests/engines/earlier_peft.sh up")
# Run by the earlier PEFT: writes the logits of an adapter, its own where it is told to make one.
PROGRAM = """
import json, sys
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM

for base, adapter, out, settings, ids in json.load(sys.stdin):
    model = AutoModelForCausalLM.from_pretrained(base)
    if settings is None:
        model = PeftModel.from_pretrained(model, adapter)
    else:
        torch.manual_seed(3)
        model = get_peft_model(model, LoraConfig(**settings, init_lora_weights=False))
        model.save_pretrained(adapter)
    with torch.no_grad():
        torch.save(model.eval()(input_ids=torch.tensor(ids)).logits, out)
"""
SHAPES = {
    "linear layers": ("llama", {}, LoraSettings(rank=4, alpha=8)),
    "dropout, some layers": ("llama", {}, LoraSettings(rank=2, alpha=8, dropout=0.1, targets=["q_proj", "v_proj"])),
    "embeddings and head too": ("llama", {}, LoraSettings(rank=4, alpha=8, save=["embed_tokens", "lm_head"])),
    "gpt-2": ("gpt2", {}, LoraSettings(rank=2)),
}


def base_of(kind: str, **changes):
    torch.manual_seed(0)
    names: dict[str, Any] = {
        "vocab_size": toy.VOCABULARY,
        "bos_token_id": 2,
        "eos_token_id": toy.EOS,
        "pad_token_id": toy.PAD,
    }
    if kind == "gpt2":
        return GPT2LMHeadModel(GPT2Config(**names, n_embd=32, n_layer=2, n_head=2, n_positions=64)).eval()
    shape: dict[str, Any] = {
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
    }
    return LlamaForCausalLM(LlamaConfig(**names, **shape, initializer_range=0.1, **changes)).eval()


def ask_earlier(*jobs) -> str:
    """Return what went wrong there; empty where nothing did."""
    done = subprocess.run([PYTHON, "-c", PROGRAM], input=json.dumps(jobs), capture_output=True, text=True, check=False)
    return done.stderr if done.returncode else ""


def write(number, folder, kind, changes, lora):
    """Train an adapter; return the job of reading it there, and our logits with and without it."""
    base, adapter, out = (str(folder / f"{part}{number}") for part in ("base", "adapter", "logits"))
    model = base_of(kind, **changes)
    model.save_pretrained(base)
    policy, bare = policy_of(model), logits(model)
    with attached_adapter(policy, lora, None, seed=0) as wrapped:
        disturb(wrapped)
        own = logits(wrapped)
        write_adapter(wrapped, TRAINED_ADAPTER, folder / f"adapter{number}", asdict(origin(policy)))
    return (base, adapter, out, None, IDS.tolist()), own, bare


def test_what_we_write_is_read_there_with_the_same_logits(tmp_path):
    written = [write(number, tmp_path, *shape) for number, shape in enumerate(SHAPES.values())]
    assert not (wrong := ask_earlier(*(job for job, _, _ in written))), wrong
    for name, (job, own, bare) in zip(SHAPES, written, strict=True):
        assert torch.allclose(torch.load(job[2]), own, atol=1e-4), name
        assert not torch.allclose(own, bare, atol=1e-2), name


def test_embeddings_trained_with_a_tied_head_are_refused_there_and_not_read_in_part(tmp_path):
    lora = LoraSettings(rank=4, save=["embed_tokens"])
    job, *_ = write(0, tmp_path, "llama", {"tie_word_embeddings": True}, lora)
    assert "unexpected keyword argument 'ensure_weight_tying'" in ask_earlier(job)


@pytest.mark.parametrize(
    "settings",
    [
        {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "down_proj"]},
        {"r": 2, "use_rslora": True, "modules_to_save": ["lm_head"], "target_modules": "all-linear"},
    ],
    ids=["lora", "rslora-and-head"],
)
def test_what_is_written_there_is_read_here_with_the_same_logits(settings, tmp_path):
    model = base_of("llama")
    model.save_pretrained(tmp_path / "base")
    paths = (str(tmp_path / name) for name in ("base", "adapter", "logits"))
    assert not (wrong := ask_earlier((*paths, settings | {"task_type": "CAUSAL_LM"}, IDS.tolist()))), wrong
    bare = logits(model)
    read = logits(load_peft_adapter(model, tmp_path / "adapter", "served"))
    assert torch.allclose(read, torch.load(tmp_path / "logits"), atol=1e-4) and not torch.allclose(
        read, bare, atol=1e-2
    )
