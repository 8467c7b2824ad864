"""TRL's own GRPOTrainer as a worker, as its users run it with rollouts of their own."""

import json
import os
import tempfile
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from _train_worker import Laps, serve
from datasets import Dataset
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl.trainer.grpo_config import GRPOConfig
from trl.trainer.grpo_trainer import GRPOTrainer


class Steps(TrainerCallback):
    def __init__(self, laps: Laps) -> None:
        self._laps = laps

    def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
        self._laps.start()

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        self._laps.stepped()


def grpo(
    folder: str, shape: str, steps: int, rank: int, rate: float, dtype: str = "float32", rows_at_once: int | None = None
) -> dict[str, Any]:
    """Steps on recorded rollouts; gradients of more than `rows_at_once` are accumulated."""
    recorded = json.loads(Path(folder, "rollouts.json").read_text())[shape][:steps]
    rollouts = iter(recorded)

    def rollout(prompts: list[str], trainer: Any) -> dict[str, Any]:
        columns = zip(*chain.from_iterable(next(rollouts)), strict=True)
        return dict(zip(("prompt_ids", "completion_ids", "logprobs", "earned"), map(list, columns), strict=True))

    groups, samples = len(recorded[0]), len(recorded[0][0])
    rows = groups * samples
    at_once = min(rows, rows_at_once or rows)
    laps = Laps()
    with tempfile.TemporaryDirectory() as work_folder:
        args = GRPOConfig(
            output_dir=work_folder,
            max_steps=steps,
            learning_rate=rate,
            lr_scheduler_type="constant",
            per_device_train_batch_size=at_once,
            gradient_accumulation_steps=rows // at_once,
            num_generations=samples,
            max_completion_length=len(recorded[0][0][0][1]),
            use_cpu=True,
            bf16=False,
            activation_checkpointing=False,
            report_to="none",
            logging_strategy="no",
            save_strategy="no",
            disable_tqdm=True,
        )
        trainer = GRPOTrainer(
            model=AutoModelForCausalLM.from_pretrained(f"{folder}/model", dtype=getattr(torch, dtype)),
            reward_funcs=lambda earned, **_: earned,
            args=args,
            train_dataset=Dataset.from_dict({"prompt": ["ask"] * groups * steps}),
            processing_class=AutoTokenizer.from_pretrained(f"{folder}/model"),
            peft_config=LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear", task_type="CAUSAL_LM"),
            rollout_func=rollout,
            callbacks=[Steps(laps)],
        )
        trainer.train()
    return laps.report(sum(len(row[1]) for group in recorded[0] for row in group))


if __name__ == "__main__":
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    serve({"grpo": grpo})
