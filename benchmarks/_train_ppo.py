"""PPOTrainer of trl 1.12 as a worker, in an environment of its own: as its users run it, with a reward module."""

import json
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from _train_worker import Laps, chance, serve
from datasets import Dataset
from peft import LoraConfig
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PrinterCallback,
    TrainerCallback,
)
from trl.experimental.ppo import PPOConfig, PPOTrainer  # pyright: ignore[reportMissingImports]  of trl 1.12


class Verifier(torch.nn.Module):
    """A reward model in place of a verifier.

    Its "hidden states" are the tokens; its score is 1 where the first token after the prompt is right.
    """

    base_model_prefix = "backbone"

    def __init__(self, prompts: list[list[int]], answers: list[int]) -> None:
        super().__init__()
        self.backbone = lambda input_ids, **_: SimpleNamespace(hidden_states=[input_ids])
        self._length = len(prompts[0])
        self._answers = {tuple(prompt): answer for prompt, answer in zip(prompts, answers, strict=True)}

    def score(self, ids: torch.Tensor) -> torch.Tensor:
        """(rows, tokens) -> (rows, tokens, 1): the same at each token."""
        right = [float(row[self._length] == self._answers[tuple(row[: self._length])]) for row in ids.tolist()]
        return torch.tensor(right)[:, None, None].expand(*ids.shape, 1)


class Steps(TrainerCallback):
    def __init__(self, laps: Laps) -> None:
        self._laps = laps

    def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
        self._laps.start()

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        self._laps.stepped()


def ppo(folder: str, batches: int, rows: int, rank: int, rate: float, epochs: int, seed: int) -> dict[str, Any]:
    """`epochs` optimizer steps on each batch of rollouts; P(right answer) after each batch."""
    task = json.loads(Path(folder, "task.json").read_text())
    tokenizer = AutoTokenizer.from_pretrained(f"{folder}/model", padding_side="left")
    policy = AutoModelForCausalLM.from_pretrained(f"{folder}/model")
    laps = Laps(lambda: chance(policy, task["prompts"]["held"], task["answers"]["held"]))
    with tempfile.TemporaryDirectory() as work_folder:
        args = PPOConfig(
            output_dir=work_folder,
            total_episodes=rows * batches,
            per_device_train_batch_size=rows,
            num_ppo_epochs=epochs,
            learning_rate=rate,
            lr_scheduler_type="constant",
            response_length=task["limit"],
            stop_token="eos",
            temperature=1.0,
            kl_coef=0.0,
            num_sample_generations=0,
            seed=seed,
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
            report_to="none",
            logging_strategy="no",
            save_strategy="no",
            disable_tqdm=True,
        )
        trainer = PPOTrainer(
            args=args,
            processing_class=tokenizer,
            model=policy,
            ref_model=None,
            reward_model=Verifier(task["prompts"]["train"], task["answers"]["train"]),
            value_model=AutoModelForSequenceClassification.from_pretrained(f"{folder}/model", num_labels=1),
            train_dataset=Dataset.from_dict({"input_ids": task["prompts"]["train"]}),
            peft_config=LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear", task_type="CAUSAL_LM"),
            callbacks=[Steps(laps)],
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    return laps.report(rows * task["limit"])


if __name__ == "__main__":
    torch.set_num_threads(1)
    serve({"ppo": ppo})
