"""Sampling as a worker: our engine, or transformers' `generate`, on the same prompts of task=sentences."""

import os
import time
from functools import cache
from pathlib import Path
from typing import Any

import torch
from _train_worker import serve

LIMIT, TEMPERATURE = 48, 1.0


@cache
def _engine(folder: str, dtype: str) -> Any:
    from sia_runner.config.training import PolicyConfig
    from sia_runner.policy.engine import PolicyEngine

    spec = PolicyConfig.model_validate({"base": folder, "dtype": dtype, "device": "cpu"})
    return PolicyEngine(spec, Path(folder), list)


def ours(folder: str, dtype: str, chats: list[Any], seed: int) -> dict[str, Any]:
    """Answer each chat once, as a batch, with nothing cached; report the samples too."""
    from sia_runner.policy.sampling import PromptCache
    from sia_runner.wire.policy import PolicyRequest

    engine = _engine(folder, dtype)
    engine._prefixes = PromptCache()
    start = _clocks()
    requests = [
        PolicyRequest(chat, LIMIT, temperature=TEMPERATURE, seed=1000 * seed + at) for at, chat in enumerate(chats)
    ]
    calls = engine.sample(requests, [engine.prompt_ids(request) for request in requests])
    figures = _since(start, sum(len(call.completion_ids) for call in calls))
    samples = [[call.prompt_ids, call.completion_ids, call.logprobs] for call in calls]
    return figures | {"samples": samples}


@cache
def _plain(folder: str, dtype: str) -> tuple[Any, Any]:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype))
    return model.eval(), tokenizer


def plain(folder: str, dtype: str, chats: list[Any], seed: int) -> dict[str, Any]:
    """Answer each chat once, as a batch; no logprobs are computed, which training would need."""
    model, tokenizer = _plain(folder, dtype)
    torch.manual_seed(seed)
    start = _clocks()
    inputs = tokenizer.apply_chat_template(
        chats, add_generation_prompt=True, return_tensors="pt", return_dict=True, padding=True
    )
    options = {"max_new_tokens": LIMIT, "do_sample": True, "temperature": TEMPERATURE, "top_k": 0, "top_p": 1.0}
    with torch.no_grad():
        sequences = model.generate(**inputs, **options)
    completions = sequences[:, inputs["input_ids"].shape[1] :]
    end = tokenizer.eos_token_id
    rows = completions.tolist()
    return _since(start, sum(row.index(end) + 1 if end in row else len(row) for row in rows))


def _clocks() -> tuple[float, float]:
    return time.perf_counter(), time.process_time()


def _since(start: tuple[float, float], tokens: int) -> dict[str, Any]:
    wall, cpu = (now - before for now, before in zip(_clocks(), start, strict=True))
    return {"wall": wall, "cpu": cpu, "tokens": tokens}


if __name__ == "__main__":
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    serve({"ours": ours, "plain": plain})
