"""TRL's GRPOTrainer, fed by rollouts of the harness: any number of model calls a step, in groups of any size.

Only generation and scoring of completions are replaced. The loss, the optimizer loop and the distribution over
processes are TRL's and accelerate's. A step's rows are cut into chunks of bounded size (online_rollouts.py), because
TRL's gradient accumulation wants the same number of rows in every step.
"""

from contextlib import AbstractContextManager, ExitStack, nullcontext
from typing import Any

import numpy as np
import torch
from transformers import PrinterCallback
from trl.trainer.grpo_config import GRPOConfig
from trl.trainer.grpo_trainer import GRPOTrainer

from sia_runner.training.algorithms.protocol import Online
from sia_runner.training.batch import Batch
from sia_runner.training.collapse import Step, stride
from sia_runner.training.driver_rows import Totals
from sia_runner.training.online_forward import Forward, Part, summed
from sia_runner.training.online_rollouts import Preparation, Rollouts
from sia_runner.training.protocol import Assignment
from sia_runner.training.schedule import seed_of
from sia_runner.training.value import ValueHead


class OnlineTrainer(GRPOTrainer):
    """The trainer of online algorithms.

    `curve` has a Step for each optimizer step. One optimizer step is one call of `training_step`.
    """

    def __init__(self, assignment: Assignment, online: Online, args: GRPOConfig, dataset: Any, callbacks: list) -> None:
        model = assignment.policy.model
        if online.critic is not None:
            head = ValueHead(model.config.get_text_config().hidden_size)
            # Part of the model, so that the same optimizer updates it and its gradients are averaged over processes.
            model.value_head = head.to(model.device)
        super().__init__(
            model=model,
            reward_funcs=[_rewarded_elsewhere],
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
        self._rollouts: Rollouts | None = None
        self._training_lock = ExitStack()
        self.curve: list[Step] = []
        plain = super()._get_per_token_logps_and_entropies
        self._forward = Forward(model, self.accelerator, plain, critic=online.critic is not None)
        self._preparation = Preparation(assignment, online, self.accelerator, self._forward, self.loss_type)

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> torch.Tensor:
        """Roll out if the last batch is used up, then pass over its chunks; the optimizer steps afterwards."""
        step = self.state.global_step
        if self._rollouts is None or step % self.iterations == 0:
            self.release()
            self._rollouts = self._preparation.roll(step, with_kl=self._watched(step))
        self._lock_policy()
        model.train()
        torch.manual_seed(seed_of(self._assignment.seed, step, self.accelerator.process_index))  # dropout's
        loss, entropy = self._passes(model, self._rollouts)
        self.curve.append(_summary(self._rollouts, entropy))
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

    def _passes(self, model: Any, rollouts: Rollouts) -> tuple[torch.Tensor, float]:
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
            weight = summed(self.accelerator, part["completion_mask"].sum())
            entropy, tokens = entropy + self._metrics["train"]["entropy"][-1] * weight, tokens + weight
        return loss, entropy / tokens if tokens else sampled_entropy(rollouts.batch)

    def _critic_loss(self, part: Part, totals: Totals) -> Any:
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
        limits = self._assignment.algorithm.watched
        return self.iterations * (1 if self.beta else stride(limits, self.iterations))

    @property
    def rollouts(self) -> Rollouts | None:
        """The batch of the last step."""
        return self._rollouts


def _summary(rollouts: Rollouts, entropy: float) -> Step:
    batch = rollouts.batch
    length_b = [len(row.completion_ids) for row in batch.rows]
    return Step(
        reward=float(batch.reward_n.mean()),
        kl=rollouts.kl,
        entropy=entropy,
        zero_groups=batch.equal_reward_share(),
        length=float(np.mean(length_b)),
        tokens=rollouts.totals.tokens if rollouts.parts else 0,
    )


def _rewarded_elsewhere(*_: Any, **__: Any) -> list[float | None]:
    """Fail: TRL wants a reward function to exist, but must not call it."""
    raise RuntimeError("TRL asked for rewards, which come with the rollouts")


def sampled_entropy(batch: Batch) -> float:
    """Return the entropy in nats per token, as the mean of -log p of the sampled tokens; needs no forward pass."""
    return -float(np.mean([logprob for row in batch.rows for logprob in row.logprobs]))
