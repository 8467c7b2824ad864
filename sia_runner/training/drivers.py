"""The two training drivers: online (rollouts at every step, TRL's GRPOTrainer) and offline (TRL's SFT or DPO).

Both are generic over algorithms, and import heavy packages only when a training starts.
"""

import time
from dataclasses import asdict, replace
from typing import Any

from sia_runner.errors import TrainingError
from sia_runner.training import adapters
from sia_runner.training.algorithms import base
from sia_runner.training.algorithms.base import OfflineAlgorithm, PolicyLoss
from sia_runner.training.batch import RolloutBatch, collect_batch, questions_of_step, roll_out, why_no_rows
from sia_runner.training.progress import CheckpointStore, TrainingProgress, training_key
from sia_runner.training.protocol import TrainingJob, TrainingResult
from sia_runner.wire.adapter_files import adapter_sha256, adapter_state

TokenRow = dict[str, list[int]]


def train(job: TrainingJob) -> TrainingResult:
    """Update the weights once; then `job.out` is the new adapter, and the policy is as before.

    Resumes from checkpoints in `job.work` if there are any. Several processes (torchrun) each call this with the same
    job and their own collector; the first one writes. An offline algorithm's curves have one value per round. Raises
    TrainingError, also if the first rollouts have nothing to learn from.
    """
    run = _run_online if job.algorithm.kind == "online" else _run_offline
    parent = adapter_sha256(job.start) if job.start else None
    checkpoints = CheckpointStore(job.work, training_key(job, parent))
    with adapters.attached_adapter(job.policy, job.algorithm.lora, job.start, job.seed) as model:
        from accelerate import PartialState

        progress = run(job, checkpoints)
        if PartialState().is_main_process:
            adapters.save_adapter(model, job.out, progress.origin(job, parent))
        PartialState().wait_for_everyone()
    return progress.trained()


def trainer_settings(job: TrainingJob, steps: int, rows: int) -> dict[str, Any]:
    """Return what the configurations of all TRL trainers have in common; `rows` per device and step."""
    cpu = job.policy.model.device.type == "cpu"
    return {
        "output_dir": str(job.work),
        "max_steps": steps,
        "learning_rate": job.algorithm.learning_rate,
        # So that a step is the same wherever training was cut; a generation's training is a stretch of a longer one.
        "lr_scheduler_type": "constant",
        "per_device_train_batch_size": rows,
        "use_cpu": cpu,
        "bf16": not cpu,
        "activation_checkpointing": not cpu,
        "seed": job.seed,
        "report_to": "none",
        "logging_strategy": "no",
        "save_strategy": "no",
        "disable_tqdm": True,
        "remove_unused_columns": False,
        "dataloader_pin_memory": False,
        "ddp_find_unused_parameters": False,
    }


def _run_online(job: TrainingJob, checkpoints: CheckpointStore) -> TrainingProgress:
    from datasets import Dataset

    from sia_runner.training.monitor import TrainingMonitor
    from sia_runner.training.online_trainer import OnlineTrainer
    from sia_runner.training.trl_forward import trl_forward

    online = base.online_algorithm(job.algorithm)
    watch = TrainingMonitor(job, checkpoints)
    args = _grpo_config(job, online.loss)
    # TRL uses only its length: a step's data comes from the rollouts.
    dataset = Dataset.from_dict({"prompt": [""] * job.algorithm.steps * args.world_size})
    with trl_forward(job.policy.model.get_base_model()):
        trainer = OnlineTrainer(job, online, args, dataset, [watch])
        try:
            watch.run(trainer)
        finally:
            trainer.dismantle()
    return watch.progress


def _grpo_config(job: TrainingJob, loss: PolicyLoss) -> Any:
    from trl.trainer.grpo_config import GRPOConfig

    return GRPOConfig(
        **trainer_settings(job, job.algorithm.steps, 2),  # rows of the dataset above: one fetch a step
        num_generations=2,
        max_completion_length=job.algorithm.max_length,
        temperature=job.algorithm.temperature,
        beta=0.0,
        loss_type=loss.loss_type,
        epsilon=loss.epsilon,
        epsilon_high=loss.epsilon_high,
        importance_sampling_level=loss.importance_level,
        router_aux_loss_coef=0.0,  # the router is not trained; the reward alone is followed
    )


def _run_offline(job: TrainingJob, checkpoints: CheckpointStore) -> TrainingProgress:
    training = OfflineTraining(job, base.offline_algorithm(job.algorithm), checkpoints)
    training.run()
    return training.progress


class OfflineTraining:
    """The rounds of one offline update. `progress.steps` counts optimizer steps over all rounds."""

    def __init__(self, assignment: TrainingJob, offline: OfflineAlgorithm, checkpoints: CheckpointStore) -> None:
        from accelerate import PartialState

        self._job, self._offline, self._checkpoints = assignment, offline, checkpoints
        self.state = PartialState(cpu=assignment.policy.model.device.type == "cpu")
        self.progress = TrainingProgress()
        self._rows: list[TokenRow] = []  # rows of the current round; empty: it has to be rolled out
        self._optimizer: dict[str, Any] | None = None  # the optimizer's state, which continues from round to round
        self._since = time.monotonic()

    def run(self) -> None:
        """Run all rounds that are not done yet."""
        self._resume()
        while not self.progress.stopped and self.progress.steps < self._job.algorithm.steps:
            if not self._rows:
                self._roll()
            if self._rows:
                self._fit()
            self._rows = []
        self.save()

    @property
    def round(self) -> int:
        """The number of the current round, from 0."""
        return min(self.progress.steps * self._offline.rounds // self._job.algorithm.steps, self._offline.rounds - 1)

    @property
    def end(self) -> int:
        """The step at which the round ends."""
        return -(-self._job.algorithm.steps * (self.round + 1) // self._offline.rounds)

    def batch(self, step: int) -> list[TokenRow]:
        """Return the rows of one optimizer step, chosen by seed and step."""
        indices = questions_of_step(
            [str(index) for index in range(len(self._rows))], self._offline.batch, step, self._job.seed
        )
        return [self._rows[int(index)] for index in indices]

    def save(self) -> None:
        """Save a checkpoint with the round's rows: a resumed round trains on the same rollouts."""
        self._clock()
        if self.state.is_main_process:
            content = {
                "weights": adapter_state(self._job.policy.model, adapters.TRAINED_ADAPTER),
                "progress": self.progress.as_plain(),
                "rows": self._rows,
                "optimizer": self._optimizer,
            }
            self._checkpoints.save(self.progress.steps, content)
            self._checkpoints.prune(self.progress.steps)
        self.state.wait_for_everyone()

    def _resume(self) -> None:
        saved = self._checkpoints.latest()
        if saved is None:
            return
        self.progress, self._rows = TrainingProgress.from_plain(saved[1]["progress"]), saved[1]["rows"]
        adapters.restore_adapter_state(self._job.policy.model, saved[1]["weights"])
        if self.state.is_main_process:
            self._job.say(f"resumed after step {saved[0]}")
        self._optimizer = saved[1]["optimizer"]

    def _roll(self) -> None:
        """Collect the round's rollouts: each process rolls out its share, and receives all trajectories."""
        from sia_runner.training.offline_trainers import measure_policy

        job, algorithm = self._job, self._job.algorithm
        per_round = -(-algorithm.prompt_count // self._offline.rounds)
        questions = questions_of_step(job.units, per_round, self.round, job.seed)
        trajectories = roll_out(job, questions, self.progress.steps, self.state)
        batch = collect_batch(trajectories, algorithm.max_length)
        selected = self._offline.select(trajectories, algorithm.max_length)
        self._say(batch, len(selected))
        if not selected and not self.progress.curve:
            raise TrainingError(_why_nothing_selected(batch, algorithm.max_length))
        if not selected:
            self.progress.stopped = f"round {self.round + 1}: {_why_nothing_selected(batch, algorithm.max_length)}"
            return
        self.progress.saw(trajectories)
        self.progress.curve.append(measure_policy(job.policy, batch, algorithm))
        if self.state.is_main_process:
            self._clock()
            job.record(self.progress.figures(len(trajectories)))
        self._rows = [{name: list(ids) for name, ids in asdict(row).items()} for row in selected]
        self.save()

    def _fit(self) -> None:
        from sia_runner.training.offline_trainers import fit_rows

        steps = range(self.progress.steps, self.end)
        batches = [self.batch(step) for step in steps]
        with self._job.policy.training():
            fit_rows(self._job, self._offline, batches, steps.start, self._optimizer, self._stepped)

    def _stepped(self, optimizer: Any) -> None:
        """Count an optimizer step, and save a checkpoint if one is due."""
        last, rows = self.progress.curve[-1], self.batch(self.progress.steps)
        tokens = sum(len(ids) for row in rows for name, ids in row.items() if name != "prompt_ids")
        self.progress.curve[-1] = replace(last, tokens=last.tokens + tokens)
        self.progress.steps += 1
        self._optimizer = optimizer.state_dict()
        if self.progress.steps % self._job.algorithm.checkpoint_every == 0 and self.progress.steps < self.end:
            self.save()

    def _say(self, batch: RolloutBatch, rows: int) -> None:
        if self.state.is_main_process:
            reward = f"reward {batch.reward_n.mean():.3f}" if len(batch.reward_n) else "no reward"
            line = f"round {self.round + 1}/{self._offline.rounds} · {reward} · {rows} rows of {len(batch.rows)} calls"
            failed = f" · {batch.left_out.failed} rollouts without reward" if batch.left_out.failed else ""
            self._job.say(line + failed)

    def _clock(self) -> None:
        current = time.monotonic()
        self.progress.seconds += current - self._since
        self._since = current


def _why_nothing_selected(batch: RolloutBatch, max_length: int) -> str:
    return why_no_rows(batch, max_length) or (
        f"nothing to select from {len(batch.reward_n)} rollouts: no question has samples of different reward"
    )
