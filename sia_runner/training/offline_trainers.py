"""The offline driver: rounds of rollouts, each followed by TRL's SFT or DPO trainer on rows of token ids."""

import time
from dataclasses import asdict, replace
from typing import Any

import torch
from accelerate import PartialState
from datasets import Dataset
from transformers import PrinterCallback, TrainerCallback
from trl.trainer.dpo_config import DPOConfig
from trl.trainer.dpo_trainer import DPOTrainer
from trl.trainer.sft_config import SFTConfig
from trl.trainer.sft_trainer import SFTTrainer
from trl.trainer.utils import add_fused_lm_head

from sia_runner.config.training import AlgorithmConfig
from sia_runner.errors import TrainingError
from sia_runner.training import adapters, forward
from sia_runner.training.algorithms.base import offline_algorithm
from sia_runner.training.batch import RolloutBatch, collect_batch, derive_seed, questions_of_step, roll_out, why_no_rows
from sia_runner.training.drivers import trainer_settings
from sia_runner.training.forward import trl_forward
from sia_runner.training.progress import CheckpointStore, TrainingProgress, TrainingStep, kl_row_stride
from sia_runner.training.protocol import TrainablePolicy, TrainingJob
from sia_runner.wire.adapter_files import adapter_state

TokenRow = dict[str, list[int]]


class OfflineTraining(TrainerCallback):
    """The rounds of one offline update. `progress.steps` counts optimizer steps over all rounds."""

    def __init__(self, assignment: TrainingJob, checkpoints: CheckpointStore) -> None:
        self._job, self._offline, self._checkpoints = assignment, offline_algorithm(assignment.algorithm), checkpoints
        self._processes = PartialState(cpu=assignment.policy.model.device.type == "cpu")
        self.progress = TrainingProgress()
        self._rows: list[TokenRow] = []  # rows of the current round; empty: it has to be rolled out
        self._optimizer: dict[str, Any] | None = None  # the optimizer's state, which continues from round to round
        self._began = time.monotonic()  # less the seconds before a kill

    def run(self) -> TrainingProgress:
        """Run all rounds that are not done yet."""
        if saved := self._checkpoints.latest():
            self.progress, self._rows = TrainingProgress.from_plain(saved[1]["progress"]), saved[1]["rows"]
            adapters.restore_adapter_state(self._job.policy.model, saved[1]["weights"])
            if self._processes.is_main_process:
                self._job.say(f"resumed after step {saved[0]}")
            self._optimizer = saved[1]["optimizer"]
            self._began -= self.progress.seconds
        while not self.progress.stopped and self.progress.steps < self._job.algorithm.steps:
            if not self._rows:
                self._roll()
            if self._rows:
                with self._job.policy.training():
                    self._fit()
            self._rows = []
        self._save()
        return self.progress

    @property
    def _round(self) -> int:
        return min(self.progress.steps * self._offline.rounds // self._job.algorithm.steps, self._offline.rounds - 1)

    @property
    def _end(self) -> int:
        return -(-self._job.algorithm.steps * (self._round + 1) // self._offline.rounds)

    def _batch(self, step: int) -> list[TokenRow]:
        """Return the rows of one optimizer step, chosen by seed and step."""
        numbers = [str(index) for index in range(len(self._rows))]
        chosen = questions_of_step(numbers, self._offline.batch, step, self._job.seed)
        return [self._rows[int(index)] for index in chosen]

    def _save(self) -> None:
        """Save a checkpoint with the round's rows: a resumed round trains on the same rollouts."""
        self.progress.seconds = time.monotonic() - self._began
        if self._processes.is_main_process:
            content = {
                "weights": adapter_state(self._job.policy.model, adapters.TRAINED_ADAPTER),
                "progress": asdict(self.progress),
                "rows": self._rows,
                "optimizer": self._optimizer,
            }
            self._checkpoints.save(self.progress.steps, content)
            self._checkpoints.prune(self.progress.steps)
        self._processes.wait_for_everyone()

    def _roll(self) -> None:
        """Collect the round's rollouts: each process rolls out its share, and receives all trajectories."""
        job, algorithm, progress = self._job, self._job.algorithm, self.progress
        count = -(-algorithm.prompt_count // self._offline.rounds)
        questions = questions_of_step(job.units, count, self._round, job.seed)
        trajectories = roll_out(job, questions, progress.steps, self._processes)
        batch = collect_batch(trajectories, algorithm.max_length)
        selected = self._offline.select(trajectories, algorithm.max_length)
        if self._processes.is_main_process:
            reward = f"reward {batch.reward_n.mean():.3f}" if len(batch.reward_n) else "no reward"
            rows = f"{len(selected)} rows of {len(batch.rows)} calls"
            failed = f" · {batch.failed} rollouts without reward" if batch.failed else ""
            job.say(f"round {self._round + 1}/{self._offline.rounds} · {reward} · {rows}{failed}")
        if not selected:
            reason = why_no_rows(batch, algorithm.max_length) or (
                f"nothing to select from {len(batch.reward_n)} rollouts: no question has samples of different reward"
            )
            if not progress.curve:
                raise TrainingError(reason)
            progress.stopped = f"round {self._round + 1}: {reason}"
            return
        progress.saw(trajectories)
        progress.curve.append(_measure_policy(job.policy, batch, algorithm))
        if self._processes.is_main_process:
            progress.seconds = time.monotonic() - self._began
            job.record(progress.figures(len(trajectories)))
        self._rows = [{name: list(ids) for name, ids in asdict(row).items()} for row in selected]
        self._save()

    def _fit(self) -> None:
        """Take the round's optimizer steps, in order. Every process takes the same number of rows."""
        policy, supervised = self._job.policy, self._offline.trainer == "sft"
        batches = [self._batch(step) for step in range(self.progress.steps, self._end)]
        processes = self._processes.num_processes
        share = max(1, len(batches[0]) // processes)
        rows = [batch[index % len(batch)] for batch in batches for index in range(share * processes)]
        trl: tuple[Any, Any] = (SFTConfig, SFTTrainer) if supervised else (DPOConfig, _TokenizedDpoTrainer)
        config, trainer_class = trl
        # Rows are selected by length already, and in order.
        own: dict[str, Any] = {"max_length": None, "train_sampling_strategy": "sequential"}
        if supervised:
            own["dataset_kwargs"] = {"skip_prepare_dataset": True}
            pairs = [(row["prompt_ids"], row["completion_ids"]) for row in rows]
            rows = [  # the loss is on the completion only
                {"input_ids": prompt + completion, "labels": [-100] * len(prompt) + completion}
                for prompt, completion in pairs
            ]
        with trl_forward(policy.model.get_base_model()):
            trainer = trainer_class(
                model=policy.model,
                args=config(**trainer_settings(self._job, len(batches), share), **own, **self._offline.settings),
                train_dataset=Dataset.from_list(rows),
                processing_class=policy.tokenizer,
                callbacks=[self],
            )
            trainer.remove_callback(PrinterCallback)  # prints on standard output
            if "ref" in policy.model.peft_config:
                policy.model.delete_adapter("ref")  # without it TRL's reference is the base
                policy.model.set_adapter(adapters.TRAINED_ADAPTER)
            trainer.train()

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Continue with the optimizer's state of the round before."""
        if self._optimizer is not None:
            kwargs["optimizer"].load_state_dict(self._optimizer)

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Seed dropout."""
        torch.manual_seed(derive_seed(self._job.seed, self.progress.steps, args.process_index))

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Count an optimizer step, and save a checkpoint if one is due."""
        progress = self.progress
        last, batch = progress.curve[-1], self._batch(progress.steps)
        tokens = sum(len(ids) for row in batch for name, ids in row.items() if name != "prompt_ids")
        progress.curve[-1] = replace(last, tokens=last.tokens + tokens)
        progress.steps += 1
        self._optimizer = kwargs["optimizer"].state_dict()
        if progress.steps % self._job.algorithm.checkpoint_every == 0 and progress.steps < self._end:
            self._save()


class _TokenizedDpoTrainer(DPOTrainer):
    def _prepare_dataset(self, dataset: Any, *args: Any, **kwargs: Any) -> Any:
        """Return the dataset as it is: rows are token ids already."""
        return dataset


@torch.no_grad()
def _measure_policy(policy: TrainablePolicy, batch: RolloutBatch, algorithm: AlgorithmConfig) -> TrainingStep:
    """Measure the rolled-out policy on a part of its rows: KL to the base (as in the online driver) and entropy."""
    measured = range(0, len(batch.rows), kl_row_stride(len(batch.rows)))
    chunks = forward.deal_chunks(batch, measured, 0, 1, forward.chunk_token_limit(algorithm.max_length))
    kl = entropy = tokens = rows = 0.0
    model = policy.model
    with policy.training(), trl_forward(model.get_base_model()):
        model.eval()
        add_fused_lm_head(model.get_base_model(), algorithm.temperature, outputs=("log_probs", "entropy"))
        for chunk in chunks:
            part = forward.chunk_tensors(batch, chunk, int(policy.tokenizer.pad_token_id), model.device)
            entropy_bt, mask_bt = _score_tokens(model, part).entropy, part["completion_mask"]
            with model.disable_adapter():
                base_bt = _score_tokens(model, part).log_probs
            kl += float(forward.summed_kl(base_bt[:, -mask_bt.shape[1] :], part))
            entropy += float((entropy_bt[:, -mask_bt.shape[1] :] * mask_bt).sum())
            tokens, rows = tokens + int(mask_bt.sum()), rows + len(mask_bt)
    return TrainingStep.of(batch, kl / rows, entropy / tokens)


def _score_tokens(model: Any, part: forward.ChunkInputs) -> Any:
    ids, mask = forward.whole_rows(part)
    return model(input_ids=ids, attention_mask=mask, labels=ids.masked_fill(mask == 0, -100), fused_lm_head=True)
