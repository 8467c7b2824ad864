"""The two training drivers: online (rollouts at every step, TRL's GRPOTrainer) and offline (TRL's SFT or DPO).

Both are generic over algorithms, and import heavy packages only when a training starts."""

import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from sia_runner.config.training import AlgorithmConfig
from sia_runner.errors import TrainingError
from sia_runner.training import adapters
from sia_runner.training.algorithms import base
from sia_runner.training.algorithms.base import OfflineAlgorithm, PolicyLoss
from sia_runner.training.batch import RolloutBatch, collect_batch, questions_of_step
from sia_runner.training.progress import CheckpointStore, TrainingProgress, training_key
from sia_runner.training.protocol import TrainingJob, TrainingResult


def train_online(assignment: TrainingJob) -> TrainingResult:
    """Update the weights once; then `assignment.out` is the new adapter, and the policy is as before.

    Resumes from checkpoints in `assignment.work` if there are any. Several processes (torchrun) each call this with the
    same assignment and their own collector; the first one writes. Raises TrainingError.
    """
    online = base.online_algorithm(assignment.algorithm)
    parent = adapters.adapter_sha256(assignment.start) if assignment.start else None
    checkpoints = CheckpointStore(assignment.work, training_key(assignment, parent))
    with adapters.attached_adapter(
        assignment.policy, assignment.algorithm.lora, assignment.start, assignment.seed
    ) as model:
        watch = _run_online(assignment, online, checkpoints)
        if watch.first:
            adapters.save_adapter(model, assignment.out, watch.progress.origin(assignment, parent))
        watch.wait()
    return watch.progress.trained()


def _run_online(job: TrainingJob, online: Any, checkpoints: CheckpointStore) -> Any:
    try:
        from datasets import Dataset

        from sia_runner.training.monitor import TrainingMonitor
        from sia_runner.training.online_trainer import OnlineTrainer
        from sia_runner.training.trl_forward import trl_forward
    except ImportError as error:
        raise TrainingError(f"{error.name} is missing: pip install 'sia-runner[training]'") from error

    watch = TrainingMonitor(job, checkpoints)
    args = _grpo_config(job.algorithm, online.loss, job.seed, job.work, job.policy.model.device.type)
    # TRL uses only its length: a step's data comes from the rollouts.
    dataset = Dataset.from_dict({"prompt": [""] * job.algorithm.steps * args.world_size})
    with trl_forward(job.policy.model.get_base_model()):
        trainer = OnlineTrainer(job, online, args, dataset, [watch])
        try:
            watch.run(trainer)
        finally:
            trainer.dismantle()
    return watch


def _grpo_config(algorithm: AlgorithmConfig, loss: PolicyLoss, seed: int, work: Path, device: str) -> Any:
    from trl.trainer.grpo_config import GRPOConfig

    return GRPOConfig(
        output_dir=str(work),
        max_steps=algorithm.steps,
        learning_rate=algorithm.learning_rate,
        lr_scheduler_type="constant",  # a generation's training is often a stretch of a longer one
        per_device_train_batch_size=2,  # of the dataset above: one fetch a step
        num_generations=2,
        max_completion_length=algorithm.max_length,
        temperature=algorithm.temperature,
        beta=0.0,
        loss_type=loss.loss_type,
        epsilon=loss.epsilon,
        epsilon_high=loss.epsilon_high,
        importance_sampling_level=loss.importance_level,
        router_aux_loss_coef=0.0,  # the router is not trained; the reward alone is followed
        use_cpu=device == "cpu",
        bf16=device != "cpu",
        activation_checkpointing=device != "cpu",
        seed=seed,
        report_to="none",
        logging_strategy="no",
        save_strategy="no",
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_pin_memory=False,
        ddp_find_unused_parameters=False,
    )


TokenRow = dict[str, list[int]]


def train_offline(assignment: TrainingJob) -> TrainingResult:
    """Update the weights once; then `assignment.out` is the new adapter, and the policy is as before.

    Curves have one value per round, measured on its rollouts. Resumes from checkpoints in `assignment.work` if there
    are any; several processes work together as in `online`. Raises TrainingError, also if the first round has nothing
    to learn from.
    """
    offline = base.offline_algorithm(assignment.algorithm)
    parent = adapters.adapter_sha256(assignment.start) if assignment.start else None
    checkpoints = CheckpointStore(assignment.work, training_key(assignment, parent))
    with adapters.attached_adapter(
        assignment.policy, assignment.algorithm.lora, assignment.start, assignment.seed
    ) as model:
        course = OfflineTraining(assignment, offline, checkpoints)
        course.run()
        if course.state.is_main_process:
            adapters.save_adapter(model, assignment.out, course.progress.origin(assignment, parent))
        course.state.wait_for_everyone()
    return course.progress.trained()


class OfflineTraining:
    """The rounds of one offline update. `progress.steps` counts optimizer steps over all rounds."""

    def __init__(self, assignment: TrainingJob, offline: OfflineAlgorithm, checkpoints: CheckpointStore) -> None:
        try:
            import datasets  # noqa: F401
            import trl  # noqa: F401
            from accelerate import PartialState
        except ImportError as error:
            raise TrainingError(f"{error.name} is missing: pip install 'sia-runner[training]'") from error
        self._job, self._offline, self._checkpoints = assignment, offline, checkpoints
        self._cpu = assignment.policy.model.device.type == "cpu"
        self.state = PartialState(cpu=self._cpu)
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
                "weights": adapters.adapter_state(self._job.policy.model),
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
        from accelerate.utils import gather_object

        from sia_runner.training.offline_trainers import measure_policy

        job, algorithm = self._job, self._job.algorithm
        per_round = -(-algorithm.prompt_count // self._offline.rounds)
        questions = questions_of_step(job.units, per_round, self.round, job.seed)
        share = questions[self.state.process_index :: self.state.num_processes]
        step, samples = self.progress.steps, algorithm.group_size
        trajectories = job.roll(share, samples=samples, step=step, temperature=algorithm.temperature) if share else []
        trajectories = gather_object(trajectories) if self.state.num_processes > 1 else trajectories
        batch = collect_batch(trajectories, algorithm.max_length)
        selected = self._offline.select(trajectories, algorithm.max_length)
        self._say(batch, len(selected))
        if not selected and not self.progress.curve:
            raise TrainingError(_nothing_to_learn(batch))
        if not selected:
            self.progress.stopped = f"round {self.round + 1}: {_nothing_to_learn(batch)}"
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


def _nothing_to_learn(batch: RolloutBatch) -> str:
    if not len(batch.reward_n):
        return f"none of the {batch.left_out.failed} rollouts has a reward: all of them failed"
    if not batch.rows:
        return "no rollout made a model call that names its question, so there is nothing to train on"
    return f"nothing to select from {len(batch.reward_n)} rollouts: no question has samples of different reward"
