"""TRL's GRPOTrainer, fed by rollouts of the harness: any number of model calls a step, in groups of any size.

Only generation and scoring of completions are replaced. The loss, the optimizer loop and the distribution over
processes are TRL's and accelerate's. A step's rows are cut into chunks of bounded size, because TRL's gradient
accumulation wants the same number of rows in every step. Axes: b rows (model calls), n trajectories, t tokens.
"""

import math
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from transformers import PrinterCallback
from trl.trainer.grpo_config import GRPOConfig
from trl.trainer.grpo_trainer import GRPOTrainer

from sia_runner.errors import TrainingError
from sia_runner.records import Trajectory
from sia_runner.training import forward as driver_rows
from sia_runner.training.algorithms.base import OnlineAlgorithm, TrainingSignal
from sia_runner.training.batch import RolloutBatch, collect_batch, derive_seed, questions_of_step, roll_out, why_no_rows
from sia_runner.training.forward import ChunkInputs, PolicyForward, StepTotals, ValueHead, sum_over_processes
from sia_runner.training.progress import TrainingStep, kl_batch_stride, kl_row_stride
from sia_runner.training.protocol import TrainingJob


@dataclass(frozen=True, slots=True)
class PreparedRollouts:
    """The rows of one batch of rollouts, ready for optimizer passes."""

    trajectories: tuple[Trajectory, ...]
    batch: RolloutBatch
    parts: tuple[ChunkInputs, ...]  # chunks of this process; empty: nothing to learn from
    shares: tuple[float, ...]  # factor of each chunk's loss
    totals: driver_rows.StepTotals
    kl: float  # nats per completion, to the base; nan: not measured


class RolloutPreparation:
    """Collects and prepares each step's rollouts. `loss_type`: TRL's name, which decides what a loss is divided by."""

    def __init__(
        self,
        assignment: TrainingJob,
        online: OnlineAlgorithm,
        accelerator: Accelerator,
        forward: PolicyForward,
        loss_type: str,
    ) -> None:
        self._assignment, self._online = assignment, online
        self._accelerator, self._forward, self._loss_type = accelerator, forward, loss_type
        self._pad: int = assignment.policy.tokenizer.pad_token_id

    def roll(self, step: int, *, with_kl: bool) -> PreparedRollouts:
        """Collect the rollouts of a step. Raises TrainingError if nothing can be learned from them.

        Each process rolls out its share of the questions and receives all trajectories. `with_kl`: measure the KL
        although the loss does not need it.
        """
        job = self._assignment
        job.policy.model.eval()
        accelerator, algorithm = self._accelerator, job.algorithm
        questions = questions_of_step(job.units, algorithm.prompt_count, step // self._online.loss.iterations, job.seed)
        trajectories = roll_out(job, questions, step, accelerator)
        batch = collect_batch(trajectories, algorithm.max_length)
        if reason := why_no_rows(batch, algorithm.max_length):
            raise TrainingError(reason)
        with job.policy.training():
            return self._prepare(tuple(trajectories), batch, with_kl)

    def _prepare(self, trajectories: tuple[Trajectory, ...], batch: RolloutBatch, with_kl: bool) -> PreparedRollouts:
        """Compute advantages, and measure what the loss needs of the weights before they change."""
        self._assignment.policy.model.eval()
        value_bt = self._values(batch) if self._online.critic is not None else None
        signal = self._online.advantages(batch, value_bt)
        used = [int(row) for row in np.flatnonzero(signal.used_b)]
        tokens = sum(len(batch.rows[row].completion_ids) for row in used)
        totals = driver_rows.StepTotals(len(used), tokens, self._accelerator.num_processes)
        beta = self._online.loss.beta
        idle = not used or not (signal.advantage_bt.any() or beta or value_bt is not None)
        chunks = [] if idle else self._chunks(batch, used)
        parts = tuple(self._part(batch, signal, value_bt, chunk, totals) for chunk in chunks)
        shares = tuple(
            totals.share(self._loss_type, len(part["completion_ids"]), int(part["completion_mask"].sum()))
            for part in parts
        )
        kl = self._kl(batch, parts) if beta or with_kl else math.nan
        return PreparedRollouts(trajectories, batch, parts, shares, totals, kl)

    def _values(self, batch: RolloutBatch) -> np.ndarray:
        return self._forward.values(batch, self._chunks(batch, list(range(len(batch.rows)))), self._pad)

    def _chunks(self, batch: RolloutBatch, rows: list[int]) -> list[driver_rows.Chunk]:
        processes = self._accelerator.num_processes
        limit = driver_rows.chunk_token_limit(self._assignment.algorithm.max_length)
        return driver_rows.deal_chunks(batch, rows, self._accelerator.process_index, processes, limit)

    def _part(
        self,
        batch: RolloutBatch,
        signal: TrainingSignal,
        value_bt: Any,
        chunk: driver_rows.Chunk,
        totals: driver_rows.StepTotals,
    ) -> ChunkInputs:
        """Return the inputs of TRL's loss for one chunk, and the critic's targets."""
        device = self._accelerator.device
        part: ChunkInputs = driver_rows.chunk_tensors(batch, chunk, self._pad, device)
        part |= driver_rows.chunk_targets(signal, value_bt, chunk, part["completion_ids"].shape[1], device)
        part["num_items_in_batch"] = torch.tensor(float(totals.tokens), device=device)
        if self._online.loss.beta:
            part["ref_per_token_logps"] = self._forward.base_logprobs(part)
        return part

    def _kl(self, batch: RolloutBatch, parts: tuple[ChunkInputs, ...]) -> float:
        """Return the KL of the sampled policy to the base, in nats per completion.

        Mean over rows of the summed exp(d) - d - 1, d = log base - log policy: the unbiased estimate that is never
        negative (Schulman 2020).
        """
        if not self._online.loss.beta or not parts:
            chunks = self._chunks(batch, list(range(0, len(batch.rows), kl_row_stride(len(batch.rows)))))
            parts = tuple(
                driver_rows.chunk_tensors(batch, chunk, self._pad, self._accelerator.device) for chunk in chunks
            )
        total = rows = 0.0
        for part in parts:
            has_base = "ref_per_token_logps" in part
            base_bt = part["ref_per_token_logps"] if has_base else self._forward.base_logprobs(part)
            gap_bt = (base_bt - part["old_per_token_logps"]).clamp(max=20) * part["completion_mask"]
            total += sum_over_processes(self._accelerator, (gap_bt.exp() - gap_bt - 1).sum())
            rows += sum_over_processes(self._accelerator, part["completion_mask"].any(dim=1).sum())
        return total / rows


class OnlineTrainer(GRPOTrainer):
    """The trainer of online algorithms; each `training_step` is an optimizer step and adds to `curve`."""

    def __init__(
        self, assignment: TrainingJob, online: OnlineAlgorithm, args: GRPOConfig, dataset: Any, callbacks: list
    ) -> None:
        model = assignment.policy.model
        if online.critic is not None:
            head = ValueHead(model.config.get_text_config().hidden_size)
            # Part of the model, so that the same optimizer updates it and its gradients are averaged over processes.
            model.value_head = head.to(model.device)
        super().__init__(
            model=model,
            reward_funcs=[_unused_reward_function],
            args=args,
            train_dataset=dataset,
            processing_class=assignment.policy.tokenizer,
            callbacks=callbacks,
        )
        self.remove_callback(PrinterCallback)  # prints on standard output
        # Not set in GRPOConfig: a weight above 0 there makes TRL copy the adapter as reference. Ours is the base.
        self.beta = online.loss.beta
        self._assignment = assignment
        self._online = online
        self._rollouts: PreparedRollouts | None = None
        self._training_lock = ExitStack()
        self.curve: list[TrainingStep] = []
        plain = super()._get_per_token_logps_and_entropies
        self._forward = PolicyForward(model, self.accelerator, plain, critic=online.critic is not None)
        self._preparation = RolloutPreparation(assignment, online, self.accelerator, self._forward, self.loss_type)

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> torch.Tensor:
        """Roll out if the last batch is used up, then pass over its chunks; the optimizer steps afterwards."""
        step = self.state.global_step
        if self._rollouts is None or step % self.iterations == 0:
            self.release()
            self._rollouts = self._preparation.roll(step, with_kl=self._watched(step))
        self._lock_policy()
        model.train()
        torch.manual_seed(derive_seed(self._assignment.seed, step, self.accelerator.process_index))  # dropout's
        loss, entropy = self._passes(model, self._rollouts)
        self.curve.append(_step_summary(self._rollouts, entropy))
        self._metrics["train"].clear()  # TRL's own metrics, which nobody logs
        return loss

    def release(self) -> None:
        """Let the policy answer again: after an optimizer step, and at the end of training."""
        self._training_lock.close()

    def dismantle(self) -> None:
        """Remove hooks and value head from the model; its adapter stays."""
        self.release()
        self._forward.dismantle()

    def _lock_policy(self) -> None:
        self._training_lock.close()
        self._training_lock.enter_context(self._assignment.policy.training())

    def _watched(self, step: int) -> bool:
        """Return True if the KL is to be measured although the loss does not need it: regularly, and at the end."""
        return step % self.kl_every == 0 or step + self.iterations >= self._assignment.algorithm.steps

    def _passes(self, model: Any, rollouts: PreparedRollouts) -> tuple[torch.Tensor, float]:
        """Run forward and backward over all chunks; return the step's loss, and its entropy in nats per token."""
        device = self.accelerator.device
        loss = torch.zeros((), device=device)
        entropy = tokens = 0.0
        for at, (part, share) in enumerate(zip(rollouts.parts, rollouts.shares, strict=True)):
            # Gradients are averaged over processes once a step, with the last chunk.
            last = at + 1 == len(rollouts.parts)
            synchronised: AbstractContextManager[Any] = nullcontext() if last else self.accelerator.no_sync(model)
            with synchronised:
                with self.compute_loss_context_manager():
                    part_loss = self._compute_loss(model, part) * share + self._critic_loss(part, rollouts.totals)
                self.accelerator.backward(part_loss)
            loss += part_loss.detach()
            weight = sum_over_processes(self.accelerator, part["completion_mask"].sum())
            entropy, tokens = entropy + self._metrics["train"]["entropy"][-1] * weight, tokens + weight
        return loss, entropy / tokens if tokens else sampled_entropy(rollouts.batch)

    def _critic_loss(self, part: ChunkInputs, totals: StepTotals) -> Any:
        critic = self._online.critic
        if critic is None:
            return 0.0
        mask_bt, value_bt = part["completion_mask"], self._forward.chunk_values(part)
        share = totals.tokens_share(int(mask_bt.sum()))
        return critic.coefficient * share * critic.loss(value_bt, part["old_values"], part["returns"], mask_bt)

    def _get_per_token_logps_and_entropies(self, *arguments: Any, **settings: Any) -> Any:
        """Return our logprobs and entropies to TRL's loss."""
        return self._forward.logprobs(*arguments, **settings)

    @property
    def iterations(self) -> int:
        """The optimizer steps per batch of rollouts."""
        return self._online.loss.iterations

    @property
    def kl_every(self) -> int:
        """The optimizer steps from one measurement of the KL to the next."""
        limits = self._assignment.algorithm.stopping_limits
        return self.iterations * (1 if self.beta else kl_batch_stride(limits, self.iterations))

    @property
    def rollouts(self) -> PreparedRollouts | None:
        """The batch of the last step."""
        return self._rollouts


def _step_summary(rollouts: PreparedRollouts, entropy: float) -> TrainingStep:
    batch = rollouts.batch
    length_b = [len(row.completion_ids) for row in batch.rows]
    return TrainingStep(
        reward=float(batch.reward_n.mean()),
        kl=rollouts.kl,
        entropy=entropy,
        zero_groups=batch.equal_reward_share(),
        length=float(np.mean(length_b)),
        tokens=rollouts.totals.tokens if rollouts.parts else 0,
    )


def _unused_reward_function(*_: Any, **__: Any) -> list[float | None]:
    """Fail: TRL wants a reward function to exist, but must not call it."""
    raise RuntimeError("TRL asked for rewards, which come with the rollouts")


def sampled_entropy(batch: RolloutBatch) -> float:
    """Return the entropy in nats per token, as the mean of -log p of the sampled tokens; needs no forward pass."""
    return -float(np.mean([logprob for row in batch.rows for logprob in row.logprobs]))
