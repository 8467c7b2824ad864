"""What the policy's tests have in common: small checkpoints on disk, adapters for them, and requests."""

import json
from pathlib import Path
from typing import Any

from sia_runner.config.training import PolicyConfig, TinyModelConfig
from sia_runner.wire.policy import PolicyRequest, WarmupDialogue

SMALL = TinyModelConfig(layers=2, hidden=64, heads=2, context=64, vocabulary=400, epochs=2)
SUMS = [WarmupDialogue(({"role": "user", "content": f"{a}+{b}="},), str(a + b)) for a in range(20) for b in range(20)]
SHAPE = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 96,
    "initializer_range": 0.1,
    "tie_word_embeddings": False,
}
GPT_OSS = {
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
    "sliding_window": 8,  # shorter than the prompts, so that it matters
    "layer_types": ["sliding_attention", "full_attention"],
    "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
}


def config_of(kind: str, **more: Any) -> Any:
    from transformers import GptOssConfig, LlamaConfig, Qwen3Config

    made = {"qwen3": Qwen3Config, "llama": LlamaConfig, "gpt_oss": GptOssConfig}[kind]
    return made(**(SHAPE | (GPT_OSS if kind == "gpt_oss" else {}) | more))


def checkpoint(folder: Path, kind: str = "qwen3", seed: int = 0) -> Path:
    """A model with random weights and a tokenizer, as transformers saves them."""
    import torch
    from transformers import AutoModelForCausalLM

    from sia_runner.policy.tiny import learn_tokenizer

    tokenizer = learn_tokenizer(SUMS, 300, SHAPE["max_position_embeddings"])
    torch.manual_seed(seed)
    ends = {"pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id, "bos_token_id": None}
    model = AutoModelForCausalLM.from_config(config_of(kind, vocab_size=len(tokenizer), **ends))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def spec(base: Path | str, **changes: Any) -> PolicyConfig:
    return PolicyConfig(base=str(base), device="cpu", tiny=SMALL, **changes)


def no_texts() -> list[WarmupDialogue]:
    raise AssertionError("only base=tiny needs texts")


def adapter(
    folder: Path, engine: Any, seed: int, base_sha256: str | None = None, service: Any = None, **lora: Any
) -> Path:
    """An adapter that changes a good deal, made on a copy of the engine's base and saved as training saves it."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(seed)
    settings = {"r": 4, "lora_alpha": 8, "target_modules": "all-linear", "init_lora_weights": False} | lora
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(engine.base_id), LoraConfig(**settings))
    model.save_pretrained(folder)
    mark = {"base_id": engine.base_id, "base_sha256": base_sha256 or engine.base_sha256, "service": service}
    (folder / "sia_adapter.json").write_text(json.dumps(mark))
    return folder


def ask(text: str, **changes: Any) -> PolicyRequest:
    return PolicyRequest(messages=({"role": "user", "content": text},), **({"max_tokens": 12} | changes))


def generate(engine, requests):
    """Answer requests, in order."""
    return engine.sample(requests, [engine.prompt_ids(request) for request in requests])
