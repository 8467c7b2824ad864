"""TRL's GRPOTrainer, fed by rollouts of the harness: any number of model calls a step, in groups of any size.

Only generation and scoring of completions are replaced. A step's rows are cut into chunks of bounded size, because
TRL's gradient accumulation wants the same number of rows in every step.
"""

import math
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import PrinterCallback
from trl.trainer.grpo_config import GRPOConfig
from trl.trainer.grpo_trainer import GRPOTrainer

from sia_runner.errors import TrainingError
from sia_runner.records import Trajectory
from sia_runner.training import forward
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
    totals: StepTotals
    kl: float  # nats per completion, to the base; nan: not measured


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
        self.iterations = online.loss.iterations  # optimizer steps on each batch of rollouts
        limits = assignment.algorithm.stopping_limits
        # Optimizer steps from one measurement of the KL to the next.
        self.kl_every = self.iterations * (1 if self.beta else kl_batch_stride(limits, self.iterations))
        self._assignment, self._online, self._training_lock = assignment, online, ExitStack()
        self.rollouts: PreparedRollouts | None = None  # those of the last step
        self.curve: list[TrainingStep] = []
        plain = super()._get_per_token_logps_and_entropies
        self._forward = PolicyForward(model, self.accelerator, plain, critic=online.critic is not None)
        self._pad: int = assignment.policy.tokenizer.pad_token_id

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> torch.Tensor:
        """Roll out if the last batch is used up, then pass over its chunks; the optimizer steps afterwards."""
        step = self.state.global_step
        self.release()
        if self.rollouts is None or step % self.iterations == 0:
            # A KL that the loss does not need is watched: regularly, and at the end.
            watched = step % self.kl_every == 0 or step + self.iterations >= self._assignment.algorithm.steps
            self.rollouts = self._roll_out(step, with_kl=watched)
        rollouts = self.rollouts
        self._training_lock.enter_context(self._assignment.policy.training())
        model.train()
        torch.manual_seed(derive_seed(self._assignment.seed, step, self.accelerator.process_index))  # dropout's
        loss, entropy = self._passes(model, rollouts)
        tokens = rollouts.totals.tokens if rollouts.parts else 0
        self.curve.append(TrainingStep.of(rollouts.batch, rollouts.kl, entropy, tokens))
        self._metrics["train"].clear()  # TRL's own metrics, which nobody logs
        return loss

    def release(self) -> None:
        """Let the policy answer again: after an optimizer step, and at the end of training."""
        self._training_lock.close()

    def dismantle(self) -> None:
        """Remove hooks and value head from the model; its adapter stays."""
        self.release()
        self._forward.dismantle()

    def _roll_out(self, step: int, *, with_kl: bool) -> PreparedRollouts:
        """Collect the rollouts of a step, in all processes. Raises TrainingError if nothing can be learned from them.

        `with_kl`: measure the KL although the loss does not need it.
        """
        job, algorithm = self._assignment, self._assignment.algorithm
        job.policy.model.eval()
        questions = questions_of_step(job.units, algorithm.prompt_count, step // self.iterations, job.seed)
        trajectories = roll_out(job, questions, step, self.accelerator)
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
        totals = StepTotals(len(used), tokens, self.accelerator.num_processes)
        idle = not used or not (signal.advantage_bt.any() or self.beta or value_bt is not None)
        chunks = [] if idle else self._chunks(batch, used)
        parts = tuple(self._part(batch, signal, value_bt, chunk, totals) for chunk in chunks)
        shares = tuple(
            totals.share(self.loss_type, len(part["completion_ids"]), int(part["completion_mask"].sum()))
            for part in parts
        )
        kl = self._kl(batch, parts) if self.beta or with_kl else math.nan
        return PreparedRollouts(trajectories, batch, parts, shares, totals, kl)

    def _values(self, batch: RolloutBatch) -> np.ndarray:
        return self._forward.values(batch, self._chunks(batch, list(range(len(batch.rows)))), self._pad)

    def _chunks(self, batch: RolloutBatch, rows: list[int]) -> list[forward.Chunk]:
        limit = forward.chunk_token_limit(self._assignment.algorithm.max_length)
        processes = self.accelerator.num_processes
        return forward.deal_chunks(batch, rows, self.accelerator.process_index, processes, limit)

    def _part(
        self, batch: RolloutBatch, signal: TrainingSignal, value_bt: Any, chunk: forward.Chunk, totals: StepTotals
    ) -> ChunkInputs:
        device = self.accelerator.device
        part: ChunkInputs = forward.chunk_tensors(batch, chunk, self._pad, device)
        rows, width = [max(row, 0) for row in chunk], part["completion_ids"].shape[1]
        targets = {"advantages": signal.advantage_bt, "returns": signal.return_bt, "old_values": value_bt}
        for name, array_bt in targets.items():
            if array_bt is not None:
                own_bt = np.ascontiguousarray(array_bt[rows, :width], dtype=np.float32)
                part[name] = torch.from_numpy(own_bt).to(device)
        part["num_items_in_batch"] = torch.tensor(float(totals.tokens), device=device)
        if self.beta:
            part["ref_per_token_logps"] = self._forward.base_logprobs(part)
        return part

    def _kl(self, batch: RolloutBatch, parts: tuple[ChunkInputs, ...]) -> float:
        """Return the KL of the sampled policy to the base: nats per completion, a mean over rows."""
        if not self.beta or not parts:
            chunks = self._chunks(batch, list(range(0, len(batch.rows), kl_row_stride(len(batch.rows)))))
            parts = tuple(forward.chunk_tensors(batch, chunk, self._pad, self.accelerator.device) for chunk in chunks)
        total = rows = 0.0
        for part in parts:
            has_base = "ref_per_token_logps" in part
            base_bt = part["ref_per_token_logps"] if has_base else self._forward.base_logprobs(part)
            total += sum_over_processes(self.accelerator, forward.summed_kl(base_bt, part))
            rows += sum_over_processes(self.accelerator, part["completion_mask"].any(dim=1).sum())
        return total / rows

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
        if not tokens:  # no forward pass was needed: the mean of -log p of the sampled tokens
            return loss, -float(np.mean([logprob for row in rollouts.batch.rows for logprob in row.logprobs]))
        return loss, entropy / tokens

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


def _unused_reward_function(*_: Any, **__: Any) -> list[float | None]:
    """Fail: TRL wants a reward function to exist, but must not call it."""
    raise RuntimeError("TRL asked for rewards, which come with the rollouts")
