"""A step's rollouts, prepared for the optimizer: rewards become advantages, rows become chunks of bounded size.

Axes: b rows (model calls), n trajectories, t completion tokens.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object

from sia_runner.records import Trajectory
from sia_runner.training import driver_rows
from sia_runner.training.algorithms.protocol import Online, Signal
from sia_runner.training.batch import Batch, collect
from sia_runner.training.collapse import row_stride
from sia_runner.training.online_forward import Forward, Part, summed
from sia_runner.training.protocol import Assignment, TrainingError
from sia_runner.training.schedule import units_of


@dataclass(frozen=True, slots=True)
class Rollouts:
    """The rows of one batch of rollouts, ready for optimizer passes."""

    trajectories: tuple[Trajectory, ...]
    batch: Batch
    parts: tuple[Part, ...]  # chunks of this process; empty: nothing to learn from
    shares: tuple[float, ...]  # factor of each chunk's loss
    totals: driver_rows.Totals
    kl: float  # nats per completion, to the base; nan: not measured


class Preparation:
    """Collects and prepares each step's rollouts. `loss_type`: TRL's name, which decides what a loss is divided by."""

    def __init__(
        self, assignment: Assignment, online: Online, accelerator: Accelerator, forward: Forward, loss_type: str
    ) -> None:
        self._assignment, self._online = assignment, online
        self._accelerator, self._forward, self._loss_type = accelerator, forward, loss_type
        self._pad: int = assignment.policy.tokenizer.pad_token_id

    def roll(self, step: int, *, with_kl: bool) -> Rollouts:
        """Collect the rollouts of a step. Raises TrainingError if nothing can be learned from them.

        Each process rolls out its share of the questions and receives all trajectories. `with_kl`: measure the KL
        although the loss does not need it.
        """
        job = self._assignment
        job.policy.model.eval()
        accelerator, algorithm = self._accelerator, job.algorithm
        questions = units_of(job.units, algorithm.questions, step // self._online.loss.iterations, job.seed)
        share = questions[accelerator.process_index :: accelerator.num_processes]
        trajectories = (
            job.roll(share, samples=algorithm.samples, step=step, temperature=algorithm.temperature) if share else []
        )
        trajectories = gather_object(trajectories) if accelerator.num_processes > 1 else trajectories
        batch = collect(trajectories, algorithm.max_length)
        if not any(trajectory.reward is not None for trajectory in trajectories):
            raise TrainingError(
                f"none of the {len(trajectories)} rollouts of step {step + 1} has a reward: all of them failed"
            )
        if batch.left_out.long and not batch.rows:
            raise TrainingError(f"all {batch.left_out.long} calls exceed max_length={algorithm.max_length} tokens")
        if not batch.rows:
            raise TrainingError("no rollout made a model call that names its question, so there is nothing to train on")
        with job.policy.training():
            return self._prepare(tuple(trajectories), batch, with_kl)

    def _prepare(self, trajectories: tuple[Trajectory, ...], batch: Batch, with_kl: bool) -> Rollouts:
        """Compute advantages, and measure what the loss needs of the weights before they change."""
        self._assignment.policy.model.eval()
        value_bt = self._values(batch) if self._online.critic is not None else None
        signal = self._online.advantages(batch, value_bt)
        used = [int(row) for row in np.flatnonzero(signal.used_b)]
        tokens = sum(len(batch.rows[row].completion_ids) for row in used)
        totals = driver_rows.Totals(len(used), tokens, self._accelerator.num_processes)
        beta = self._online.loss.beta
        idle = not used or not (signal.advantage_bt.any() or beta or value_bt is not None)
        chunks = [] if idle else self._chunks(batch, used)
        parts = tuple(self._part(batch, signal, value_bt, chunk, totals) for chunk in chunks)
        shares = tuple(
            totals.share(self._loss_type, len(part["completion_ids"]), int(part["completion_mask"].sum()))
            for part in parts
        )
        kl = self._kl(batch, parts) if beta or with_kl else math.nan
        return Rollouts(trajectories, batch, parts, shares, totals, kl)

    def _values(self, batch: Batch) -> np.ndarray:
        return self._forward.values(batch, self._chunks(batch, list(range(len(batch.rows)))), self._pad)

    def _chunks(self, batch: Batch, rows: list[int]) -> list[driver_rows.Chunk]:
        processes = self._accelerator.num_processes
        limit = driver_rows.bound(self._assignment.algorithm.max_length)
        return driver_rows.deal(batch, rows, self._accelerator.process_index, processes, limit)

    def _part(
        self, batch: Batch, signal: Signal, value_bt: Any, chunk: driver_rows.Chunk, totals: driver_rows.Totals
    ) -> Part:
        """Return the inputs of TRL's loss for one chunk, and the critic's targets."""
        device = self._accelerator.device
        part: Part = driver_rows.tensors(batch, chunk, self._pad, device)
        part |= driver_rows.targets(signal, value_bt, chunk, part["completion_ids"].shape[1], device)
        part["num_items_in_batch"] = torch.tensor(float(totals.tokens), device=device)
        if self._online.loss.beta:
            part["ref_per_token_logps"] = self._forward.base_logprobs(part)
        return part

    def _kl(self, batch: Batch, parts: tuple[Part, ...]) -> float:
        """Return the KL of the sampled policy to the base, in nats per completion.

        Mean over rows of the summed exp(d) - d - 1, d = log base - log policy: the unbiased estimate that is never
        negative (Schulman 2020).
        """
        if not self._online.loss.beta or not parts:
            chunks = self._chunks(batch, list(range(0, len(batch.rows), row_stride(len(batch.rows)))))
            parts = tuple(driver_rows.tensors(batch, chunk, self._pad, self._accelerator.device) for chunk in chunks)
        total = rows = 0.0
        for part in parts:
            has_base = "ref_per_token_logps" in part
            base_bt = part["ref_per_token_logps"] if has_base else self._forward.base_logprobs(part)
            gap_bt = (base_bt - part["old_per_token_logps"]).clamp(max=20) * part["completion_mask"]
            total += summed(self._accelerator, (gap_bt.exp() - gap_bt - 1).sum())
            rows += summed(self._accelerator, part["completion_mask"].any(dim=1).sum())
        return total / rows
