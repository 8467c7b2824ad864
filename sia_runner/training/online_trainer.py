"""TRL's GRPOTrainer, fed by rollouts of the harness: any number of model calls a step, in groups of any size.

What is replaced is where completions are generated and scored. The loss, the optimizer loop and the distribution over
processes are TRL's and accelerate's. A step's rows are cut into chunks of bounded size here, because TRL's gradient
accumulation wants the same number of rows in every step.

Axes: b rows (model calls), t completion tokens.
"""

import math
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from accelerate.utils import gather_object
from transformers import PrinterCallback
from trl.trainer.grpo_config import GRPOConfig
from trl.trainer.grpo_trainer import GRPOTrainer

from sia_runner.records import Trajectory
from sia_runner.training import driver_rows, sharing
from sia_runner.training.algorithms.protocol import Online, Signal
from sia_runner.training.batch import Batch, collect
from sia_runner.training.collapse import Step, stride
from sia_runner.training.protocol import Assignment, TrainingError
from sia_runner.training.schedule import seed_of, units_of
from sia_runner.training.value import HiddenStates, ValueHead

WATCHED = 8  # where the KL is only watched, one row in so many is measured, and at least so many: a forward pass each


@dataclass(frozen=True, slots=True)
class Rollouts:
    """The rows of one batch of rollouts, ready for optimizer passes."""

    trajectories: tuple[Trajectory, ...]
    batch: Batch
    parts: tuple[dict[str, Any], ...]  # this process's chunks; empty: nothing to learn from
    shares: tuple[float, ...]  # what each chunk's loss is multiplied by
    totals: driver_rows.Totals
    kl: float  # nats per completion, to the base; nan: not measured


class OnlineTrainer(GRPOTrainer):
    """`curve` has a Step for each optimizer step done. One optimizer step is one call of `training_step`."""

    def __init__(self, assignment: Assignment, online: Online, args: GRPOConfig, dataset: Any, callbacks: list) -> None:
        if online.critic is not None:
            model = assignment.policy.model
            head = ValueHead(model.config.get_text_config().hidden_size)
            # A part of the model: the same optimizer steps it, and its gradients are averaged over processes too.
            model.value_head = head.to(model.device)
        super().__init__(
            model=assignment.policy.model,
            reward_funcs=[_rewarded_elsewhere],
            args=args,
            train_dataset=dataset,
            processing_class=assignment.policy.tokenizer,
            callbacks=callbacks,
        )
        self.remove_callback(PrinterCallback)  # prints on standard output
        # Not by GRPOConfig: a weight above 0 there makes TRL copy the adapter as reference. Ours is the base.
        self.beta = online.loss.beta
        self._assignment = assignment
        self._online = online
        self._rollouts: Rollouts | None = None
        self._held = ExitStack()
        self.curve: list[Step] = []
        base = assignment.policy.model.get_base_model()
        self._backbone = base.base_model
        self._hidden = HiddenStates(self._backbone) if online.critic is not None else None
        self._shares = sharing.possible(base)
        self._last_packed: sharing.Packed | None = None  # of the forward pass before this

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> torch.Tensor:
        """Roll out where the last batch is used up, then one pass over its chunks; the optimizer steps after this."""
        step = self.state.global_step
        if self._rollouts is None or step % self.iterations == 0:
            self._rollouts = self._roll(step)
        self._hold()
        model.train()
        torch.manual_seed(seed_of(self._assignment.seed, step, self.accelerator.process_index))  # dropout's
        loss, entropy = self._passes(model, self._rollouts)
        self.curve.append(self._summary(self._rollouts, entropy))
        self._metrics["train"].clear()  # TRL's own, which nobody logs
        return loss

    def release(self) -> None:
        """Let the policy answer again: after an optimizer step, and when training ends."""
        self._held.close()

    def dismantle(self) -> None:
        """Leave the model as it was found but for its adapter."""
        self.release()
        if self._hidden is not None:
            self._hidden.forget()
            del self._assignment.policy.model.value_head

    def _hold(self) -> None:
        self._held.close()
        self._held.enter_context(self._assignment.policy.training())

    def _roll(self, step: int) -> Rollouts:
        """Each process rolls out its share of the questions; all know all trajectories."""
        one = self._assignment
        self.release()
        one.policy.model.eval()
        accelerator, algorithm = self.accelerator, one.algorithm
        units = units_of(one.units, algorithm.questions, step // self.iterations, one.seed)
        mine = units[accelerator.process_index :: accelerator.num_processes]
        made = one.roll(mine, samples=algorithm.samples, step=step, temperature=algorithm.temperature) if mine else []
        made = gather_object(made) if accelerator.num_processes > 1 else made
        batch = collect(made, algorithm.max_length)
        if not any(trajectory.reward is not None for trajectory in made):
            raise TrainingError(f"none of the {len(made)} rollouts of step {step + 1} has a reward: all of them failed")
        if batch.left_out.long and not batch.rows:
            raise TrainingError(f"all {batch.left_out.long} calls exceed max_length={algorithm.max_length} tokens")
        if not batch.rows:
            raise TrainingError("no rollout made a model call that names its question, so there is nothing to train on")
        with one.policy.training():
            return self._prepare(tuple(made), batch, step)

    def _prepare(self, made: tuple[Trajectory, ...], batch: Batch, step: int) -> Rollouts:
        """Turn rewards into a signal, and measure what the loss needs of the weights before they move."""
        self._assignment.policy.model.eval()
        value_bt = self._values(batch) if self._online.critic is not None else None
        signal = self._online.advantages(batch, value_bt)
        used = [int(row) for row in np.flatnonzero(signal.used_b)]
        tokens = sum(len(batch.rows[row].completion_ids) for row in used)
        totals = driver_rows.Totals(len(used), tokens, self.accelerator.num_processes)
        idle = not used or not (signal.advantage_bt.any() or self.beta or value_bt is not None)
        chunks = [] if idle else self._chunks(batch, used)
        parts = tuple(self._part(batch, signal, value_bt, chunk, totals) for chunk in chunks)
        shares = tuple(
            totals.share(self.loss_type, len(part["completion_ids"]), int(part["completion_mask"].sum()))
            for part in parts
        )
        kl = self._kl(batch, parts) if self.beta or self._watched(step) else math.nan
        return Rollouts(made, batch, parts, shares, totals, kl)

    def _watched(self, step: int) -> bool:
        """Whether the KL is measured although the loss does not need it: now and then, and for the result's record."""
        return step % self.kl_every == 0 or step + self.iterations >= self._assignment.algorithm.steps

    def _chunks(self, batch: Batch, rows: list[int]) -> list[driver_rows.Chunk]:
        processes = self.accelerator.num_processes
        most = driver_rows.bound(self._assignment.algorithm.max_length)
        return driver_rows.deal(batch, rows, self.accelerator.process_index, processes, most)

    def _part(
        self, batch: Batch, signal: Signal, value_bt: Any, chunk: driver_rows.Chunk, totals: driver_rows.Totals
    ) -> dict[str, Any]:
        """The inputs of TRL's loss for one chunk, and what the critic needs beside them."""
        device = self.accelerator.device
        part: dict[str, Any] = driver_rows.tensors(batch, chunk, self._pad, device)
        part |= driver_rows.targets(signal, value_bt, chunk, part["completion_ids"].shape[1], device)
        part["num_items_in_batch"] = torch.tensor(float(totals.tokens), device=device)
        if self.beta:
            part["ref_per_token_logps"] = self._base_logprobs(part)
        return part

    def _passes(self, model: Any, rollouts: Rollouts) -> tuple[torch.Tensor, float]:
        """Forward and backward over all chunks; the loss of the step, and its entropy in nats per token."""
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
            weight = self._sum(part["completion_mask"].sum())
            entropy, tokens = entropy + self._metrics["train"]["entropy"][-1] * weight, tokens + weight
        return loss, entropy / tokens if tokens else sampled_entropy(rollouts.batch)

    def _critic_loss(self, part: dict[str, Any], totals: driver_rows.Totals) -> Any:
        critic = self._online.critic
        if critic is None:
            return 0.0
        mask_bt, value_bt = part["completion_mask"], self._chunk_values(part)
        share = totals.tokens_share(int(mask_bt.sum()))
        return critic.coefficient * share * critic.loss(value_bt, part["old_values"], part["returns"], mask_bt)

    @torch.no_grad()
    def _values(self, batch: Batch) -> np.ndarray:
        """The critic's value of the state in which each token was drawn: float32, shape (rows, tokens)."""
        value_bt = np.zeros(batch.mask_bt.shape, dtype=np.float32)
        for chunk in self._chunks(batch, list(range(len(batch.rows)))):
            part = driver_rows.tensors(batch, chunk, self._pad, self.accelerator.device)
            packed = self._packed(_joined(part), _joined(part, "mask"), part["completion_ids"].shape[1])
            plain = {"input_ids": _joined(part), "attention_mask": _joined(part, "mask")}
            with self.accelerator.autocast():
                self._backbone(**(packed.inputs() if packed else plain), use_cache=False)
            chunk_bt = self._chunk_values(part) * part["completion_mask"]
            rows = [row for row in chunk.row_b if row >= 0]
            value_bt[rows, : chunk_bt.shape[1]] = chunk_bt[: len(rows)].float().cpu().numpy()
        # Rows of other processes are zeros here, so their sum is everybody's values.
        local = torch.from_numpy(value_bt).to(self.accelerator.device)
        whole = cast(torch.Tensor, self.accelerator.reduce(local, reduction="sum"))
        return whole.cpu().numpy()

    def _chunk_values(self, part: dict[str, Any]) -> torch.Tensor:
        """Values by the states of the forward pass before this: shape (rows, tokens)."""
        if self._hidden is None:
            raise RuntimeError("there is no critic")
        state, drawn = self._hidden.last(), part["completion_ids"].shape[1]
        return self._value_head(self._last_packed.rows(state) if self._last_packed else state[:, -drawn - 1 : -1])

    def _get_per_token_logps_and_entropies(
        self, model: Any, input_ids: Any, attention_mask: Any, logits_to_keep: int, *rest: Any, **settings: Any
    ) -> Any:
        """TRL's, with prompts that rows share read once."""
        packed = self._packed(input_ids, attention_mask, logits_to_keep)
        if packed is None:
            return super()._get_per_token_logps_and_entropies(
                model, input_ids, attention_mask, logits_to_keep, *rest, **settings
            )
        with self.accelerator.autocast():
            said = model(**packed.inputs(), shift_labels=packed.label_gl, fused_lm_head=True)
        return packed.rows(said.log_probs), packed.rows(said.entropy), None

    def _packed(self, ids_bt: torch.Tensor, mask_bt: torch.Tensor, drawn: int) -> sharing.Packed | None:
        self._last_packed = sharing.pack(ids_bt, mask_bt, drawn) if self._shares else None
        return self._last_packed

    def _kl(self, batch: Batch, parts: tuple[dict[str, Any], ...]) -> float:
        """KL of the policy that was sampled to the base, nats per completion: mean over rows of the summed
        exp(d) - d - 1, d = log base - log policy, which is its unbiased estimate and never negative (Schulman 2020)."""
        if not self.beta or not parts:
            every = max(1, min(WATCHED, len(batch.rows) // WATCHED))
            chunks = self._chunks(batch, list(range(0, len(batch.rows), every)))
            parts = tuple(driver_rows.tensors(batch, chunk, self._pad, self.accelerator.device) for chunk in chunks)
        total = rows = 0.0
        for part in parts:
            base_bt = part["ref_per_token_logps"] if "ref_per_token_logps" in part else self._base_logprobs(part)
            gap_bt = (base_bt - part["old_per_token_logps"]).clamp(max=20) * part["completion_mask"]
            total += self._sum((gap_bt.exp() - gap_bt - 1).sum())
            rows += self._sum(part["completion_mask"].any(dim=1).sum())
        return total / rows

    @torch.no_grad()
    def _base_logprobs(self, part: dict[str, Any]) -> torch.Tensor:
        """Logprobs of the completions under the base, at the rollouts' temperature: shape (rows, tokens)."""
        model = self._assignment.policy.model
        with model.disable_adapter():
            return self._get_per_token_logps_and_entropies(
                model, _joined(part), _joined(part, "mask"), part["completion_ids"].shape[1]
            )[0]

    def _summary(self, rollouts: Rollouts, entropy: float) -> Step:
        batch = rollouts.batch
        length_b = [len(row.completion_ids) for row in batch.rows]
        return Step(
            reward=float(batch.reward_n.mean()),
            kl=rollouts.kl,
            entropy=entropy,
            zero_groups=batch.alike(),
            length=float(np.mean(length_b)),
            tokens=rollouts.totals.tokens if rollouts.parts else 0,
        )

    def _sum(self, local: torch.Tensor) -> float:
        """Over all processes."""
        return float(cast(torch.Tensor, self.accelerator.reduce(local.detach().float(), reduction="sum")))

    @property
    def iterations(self) -> int:
        """Optimizer steps per batch of rollouts."""
        return self._online.loss.iterations

    @property
    def kl_every(self) -> int:
        """Optimizer steps from one measurement of the KL to the next."""
        limits = self._assignment.algorithm.watched
        return self.iterations * (1 if self.beta else stride(limits, self.iterations))

    @property
    def rollouts(self) -> Rollouts | None:
        """The batch that the last step was made of."""
        return self._rollouts

    @property
    def _value_head(self) -> ValueHead:
        return self._assignment.policy.model.value_head

    @property
    def _pad(self) -> int:
        return cast(int, self._tokenizer.pad_token_id)


def _rewarded_elsewhere(*_: Any, **__: Any) -> list[float | None]:
    """TRL asks for a reward function; rewards come with the rollouts."""
    raise NotImplementedError


def _joined(part: dict[str, Any], what: str = "ids") -> torch.Tensor:
    """Prompt and completion side by side: shape (rows, prompt + tokens)."""
    return torch.cat([part[f"prompt_{what}"], part[f"completion_{what}"]], dim=1)


def sampled_entropy(batch: Batch) -> float:
    """Entropy in nats per token, as the mean of -log p over what was drawn: where no forward pass was needed."""
    return -float(np.mean([logprob for row in batch.rows for logprob in row.logprobs]))
