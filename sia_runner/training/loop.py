"""The online loop: roll out, turn rewards into advantages, take optimizer steps, publish the weights, and again.

With `overlap` a batch is rolled out while weights are trained on the one before: by weights that are one batch older.

It knows no backend: a learner is told the gradient of the loss by the logprobs, and nothing else about an algorithm.
Axes: b rows (model calls), t completion tokens.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sia_runner.errors import TrainingError
from sia_runner.records import Trajectory
from sia_runner.training.algorithms.base import OnlineAlgorithm, TrainingSignal
from sia_runner.training.batch import (
    IntArray,
    RolloutBatch,
    RolloutsAhead,
    collect_batch,
    questions_of_step,
    roll_out,
    roll_share,
    why_no_rows,
)
from sia_runner.training.checkpoints import TrainingState
from sia_runner.training.drift import Correction, Drift, drift_factors, measure_drift
from sia_runner.training.losses import Array, LossBatch, StepSize, pad_rows, policy_weights
from sia_runner.training.progress import (
    CollapseVerdict,
    TrainingProgress,
    TrainingStep,
    check_collapse,
    kl_batch_stride,
    kl_row_stride,
)
from sia_runner.wire.learning import ForwardPass, RowNumbers, StepSettings, TokenWeights, TrainingRow


@dataclass(frozen=True, slots=True)
class OnlineRollouts:
    """The rollouts of one batch, and what the weights that they came from give to them."""

    trajectories: tuple[Trajectory, ...]
    batch: RolloutBatch
    rows: tuple[TrainingRow, ...]  # to train on; none: there is nothing to learn from
    others: tuple[Sequence[float], ...]  # sampled logprobs of the other rows
    lowering: "PolicyLowering"
    kl: float  # nats per completion, to the base; nan: not measured


class PolicyLowering:
    """Lowers the loss of an algorithm on one batch of rollouts, for any part of the rows that are trained on."""

    def __init__(
        self,
        online: OnlineAlgorithm,
        sampled: Sequence[ArrayLike],
        signal: TrainingSignal,
        size: StepSize,
        base: RowNumbers | None = None,
        value_bt: Array | None = None,
        correction: Correction = "none",
    ) -> None:
        """Take the rows' logprobs at the rollouts, and of the base, the signal and the critic's values at that time."""
        self._online, self._signal, self._size = online, signal, size
        self._correction: Correction = correction
        self._value_bt = value_bt
        self.sampler_bt, self.mask_bt = pad_rows(sampled)
        self._base_bt = None if base is None else pad_rows(base)[0]
        self._learner_bt: Array | None = None  # logprobs of the learner before the first step on this batch

    def __call__(self, forward: ForwardPass) -> TokenWeights:
        """Return the weights of the rows of a forward pass."""
        rows, lengths = list(forward.rows), [len(row) for row in forward.logprobs]
        logprob_bt, mask_bt = pad_rows(forward.logprobs)
        width = logprob_bt.shape[1]

        def own(array_bt: Array) -> Array:
            return array_bt[rows, :width].astype(np.float64)

        old_bt = sampler_bt = own(self.sampler_bt)
        factor_bt = None
        if self._correction != "none":  # ratios are to the learner at that time, and the factor corrects for the rest
            old_bt = logprob_bt if self._learner_bt is None else own(self._learner_bt)
            factor_bt = drift_factors(self._correction, old_bt, sampler_bt, mask_bt)
        advantage_bt = own(self._signal.advantage_bt)
        base_bt = None if self._base_bt is None else own(self._base_bt)
        batch = LossBatch(logprob_bt, old_bt, advantage_bt, mask_bt, base_bt, factor_bt)
        weights = _unpadded(policy_weights(self._online.loss, batch, self._size), lengths)
        if self._online.critic is None:
            return TokenWeights(weights)
        targets = self._signal.return_bt
        if forward.values is None or targets is None or self._value_bt is None:
            raise TrainingError("an algorithm with a critic needs its values and their targets")
        value_bt = pad_rows(forward.values)[0]
        slope_bt = self._online.critic.weights(value_bt, own(self._value_bt), own(targets), mask_bt, self._size.tokens)
        return TokenWeights(weights, _unpadded(slope_bt, lengths))

    def drift(self, logprobs: RowNumbers) -> Drift:
        """Compare the sampler with the learner, given the learner's logprobs before the first step on this batch."""
        self._learner_bt = pad_rows(logprobs)[0]
        return measure_drift(self._learner_bt, self.sampler_bt, self.mask_bt)


class OnlineLoop:
    """The loop of one update."""

    def __init__(self, state: TrainingState, online: OnlineAlgorithm) -> None:
        self._state, self._job, self._learner, self._online = state, state.job, state.learner, online
        self._algorithm = state.job.algorithm
        self._iterations = online.loss.iterations  # optimizer steps on each batch of rollouts
        limits = self._algorithm.stopping_limits
        # Optimizer steps from one measurement of the KL to the next.
        self._kl_every = self._iterations * (1 if online.loss.beta else kl_batch_stride(limits))

    def run(self) -> TrainingProgress:
        """Train from the newest checkpoint, or from the start, to the end or to an early stop."""
        state = self._state
        saved = state.resume()
        if saved is None:
            state.save()
        progress = state.progress
        if self._done:
            return progress
        self._learner.publish()
        rolled = [Trajectory.from_json(data) for data in (saved or {}).get("ahead", ())]
        while not self._done:
            rolled = rolled or roll_out(self._job, *self._questions(progress.steps), state.processes)
            ahead = self._roll_ahead()
            try:
                rollouts = self._measured(rolled)
                self._train_on(rollouts)
                rolled = self._collected(ahead) if ahead is not None and not self._done else []
            except Exception:
                if ahead is not None:  # nothing may ask the policy, or be paid for, after the end
                    ahead.wait()
                raise
            self._save_if_due(rolled)
            if progress.stopped and ahead is not None:
                ahead.wait()
            if not progress.stopped:
                self._learner.publish()
                state.prove_adapter(rollouts.rows)
        return progress

    def _train_on(self, rollouts: OnlineRollouts) -> None:
        """Take the optimizer steps of one batch of rollouts."""
        first: TrainingStep | None = None
        while not self._done and (first is None or self._state.progress.steps % self._iterations):
            step = self._take_step(rollouts, first)
            self._finish_step(step, rollouts, len(rollouts.trajectories) if first is None else 0)
            first = first or step

    def _questions(self, step: int) -> tuple[list[str], int]:
        """Return the questions of the batch that begins with a step, and the step."""
        algorithm = self._algorithm
        number = step // self._iterations
        return questions_of_step(self._job.units, algorithm.prompt_count, number, self._job.seed), step

    def _roll_ahead(self) -> RolloutsAhead | None:
        """Begin with the next batch's rollouts, if there is one, with the weights that are published now."""
        following = self._state.progress.steps + self._iterations
        if not self._algorithm.overlap or following >= self._algorithm.steps:
            return None
        questions, processes = self._questions(following), self._state.processes
        return RolloutsAhead(lambda: roll_share(self._job, *questions, processes))

    def _collected(self, ahead: RolloutsAhead) -> list[Trajectory]:
        """Return the next batch's rollouts; if they fail, what was trained meanwhile is saved first."""
        try:
            own, line = ahead.result()
        except Exception:
            if self._state.processes.count == 1:  # several save together, and the others wait for the rollouts
                self._save_if_due([])
            raise
        self._state.say(line)
        return self._state.processes.gather(own)

    @property
    def _done(self) -> bool:
        return bool(self._state.progress.stopped) or self._state.progress.steps >= self._algorithm.steps

    def _measured(self, trajectories: Sequence[Trajectory]) -> OnlineRollouts:
        """Measure what the loss of a batch of rollouts needs of the weights before they change.

        Raises TrainingError if nothing can be learned from them.
        """
        algorithm = self._algorithm
        batch = collect_batch(trajectories, algorithm.max_length)
        if reason := why_no_rows(batch, algorithm.max_length):
            raise TrainingError(reason)
        value_bt, signal = self._signal(batch)
        used = np.flatnonzero(signal.used_b)
        size = StepSize(len(used), sum(len(batch.rows[row].completion_ids) for row in used), algorithm.max_length)
        if not self._online.loss.beta and value_bt is None:  # the gradient of a row without advantage would be 0
            used = used[signal.advantage_bt[used].any(axis=1)]
        rows, sampled = training_rows(batch, used), [batch.rows[row].logprobs for row in used]
        base = self._learner.forward(rows, base=True).logprobs if self._online.loss.beta and rows else None
        lowering = PolicyLowering(
            self._online,
            sampled,
            signal.of_rows(used),
            size,
            base,
            None if value_bt is None else value_bt[used],
            algorithm.correction or "none",
        )
        kl = self._watched_kl(batch) if base is None else kl_to_base(base, sampled)
        others = [batch.rows[row].logprobs for row in np.setdiff1d(np.arange(len(batch.rows)), used)]
        return OnlineRollouts(tuple(trajectories), batch, tuple(rows), tuple(others), lowering, kl)

    def _signal(self, batch: RolloutBatch) -> tuple[Array | None, TrainingSignal]:
        """Return the critic's values, if there is one, and the algorithm's signal, with targets in the values' unit."""
        if self._online.critic is None:
            return None, self._online.advantages(batch)
        value_bt, scale = self._values(batch), self._state.progress.scale_of(batch.reward_n)
        signal = self._online.advantages(batch, scale.to_rewards(value_bt))
        if signal.return_bt is None:
            return value_bt, signal
        return value_bt, replace(signal, return_bt=scale.to_values(signal.return_bt))

    def _values(self, batch: RolloutBatch) -> Array:
        values = self._learner.forward(training_rows(batch)).values
        if values is None:
            raise TrainingError(f"algorithm={self._algorithm.algorithm} needs a learner with a value head")
        return pad_rows(values)[0]

    def _watched_kl(self, batch: RolloutBatch) -> float:
        """Measure the KL on some rows where the loss has not: regularly, and at the end; nan otherwise."""
        step, beta = self._state.progress.steps, self._online.loss.beta
        if not beta and step % self._kl_every and step + self._iterations < self._algorithm.steps:
            return math.nan
        watched = range(0, len(batch.rows), kl_row_stride(len(batch.rows)))
        base = self._learner.forward(training_rows(batch, watched), base=True).logprobs
        return kl_to_base(base, [batch.rows[row].logprobs for row in watched])

    def _take_step(self, rollouts: OnlineRollouts, first: TrainingStep | None) -> TrainingStep:
        """Take an optimizer step, if there is anything to learn; `first`: the first step on the same rollouts."""
        batch, rows = rollouts.batch, rollouts.rows
        if not rows:
            return TrainingStep.of(batch, rollouts.kl, entropy_per_token([], rollouts.others))
        passes = self._learner.backward(rows, rollouts.lowering)
        self._learner.step(StepSettings(self._algorithm.learning_rate))
        logprobs = logprobs_in_order(passes, len(rows))
        drift = rollouts.lowering.drift(logprobs) if first is None else Drift(first.drift_kl, first.drift_share)
        entropy = entropy_per_token(passes, rollouts.others)
        return TrainingStep.of(batch, rollouts.kl, entropy, sum(len(row.completion_ids) for row in rows), drift)

    def _finish_step(self, step: TrainingStep, rollouts: OnlineRollouts, new: int) -> None:
        """Record a step with `new` trajectories, and stop early if it is one too many beyond a limit."""
        state, progress = self._state, self._state.progress
        progress.steps += 1
        progress.curve.append(replace(step, kl=progress.curve[-1].kl) if math.isnan(step.kl) else step)
        if new:
            progress.saw(rollouts.trajectories)
        state.record(new)
        at_server = self._job.policy.sampler is not None
        state.say(_progress_line(progress, self._algorithm.steps, rollouts.batch, with_drift=at_server))
        verdict = check_collapse(progress.curve, self._algorithm.stopping_limits, self._iterations) if new else None
        if verdict:
            self._stop(verdict)

    def _stop(self, verdict: CollapseVerdict) -> None:
        progress = self._state.progress
        progress.stopped = verdict.reason
        if verdict.harmful:
            progress.kept = self._state.go_back(self._trusted(progress.steps))
            if progress.kept is None:
                raise TrainingError(f"{progress.stopped}, and no checkpoint to go back to is left in {self._job.work}")
            progress.stopped += f"; the adapter is that of step {progress.kept}"
        self._state.say(f"stopped early: {progress.stopped}")

    def _save_if_due(self, ahead: Sequence[Trajectory]) -> None:
        """Save at the end of a batch of rollouts, with those that were collected for the next one, and at the end.

        A resume finds the final state if the result was written and not yet journaled.
        """
        step, every = self._state.progress.steps, self._algorithm.checkpoint_every
        if self._done or step // every > (step - self._iterations) // every:
            content = {"ahead": [asdict(trajectory) for trajectory in ahead]} if ahead else {}
            self._state.save(self._trusted(step), **content)

    def _trusted(self, step: int) -> int:
        """Return the newest step that a window ending with `step` does not call harmful.

        The window's first figure is of the weights before its batch; the last good KL is up to `kl_every` steps older.
        """
        return max(0, step - self._algorithm.stopping_limits.window * self._iterations - self._kl_every)


def training_rows(batch: RolloutBatch, numbers: Sequence[int] | IntArray | None = None) -> list[TrainingRow]:
    """Return some rows of a batch, or all, as a learner takes them."""
    chosen = batch.rows if numbers is None else [batch.rows[number] for number in numbers]
    return [TrainingRow(call.prompt_ids, call.completion_ids) for call in chosen]


def kl_to_base(base: RowNumbers, sampled: Sequence[ArrayLike]) -> float:
    """Return the KL of the sampled policy to the base: nats per completion, a mean over rows (Schulman 2020, k3)."""
    gaps = [np.minimum(base_t - np.asarray(own), 20.0) for base_t, own in zip(base, sampled, strict=True)]
    return float(np.mean([np.sum(np.expm1(gap_t) - gap_t) for gap_t in gaps]))


def logprobs_in_order(passes: Sequence[ForwardPass], count: int) -> RowNumbers:
    """Return the logprobs of several passes in the order of the call's `count` rows."""
    by_row = {row: own for part in passes for row, own in zip(part.rows, part.logprobs, strict=True)}
    return [by_row[row] for row in range(count)]


def entropy_per_token(passes: Sequence[ForwardPass], sampled: Sequence[ArrayLike] = ()) -> float:
    """Return the mean entropy in nats, over the tokens of passes and of rows of which only logprobs are known.

    Where no distribution is known it is estimated by the sampled tokens: -log p.
    """
    logprobs = [np.asarray(row) for part in passes for row in part.logprobs]
    entropies = [part.entropy for part in passes if part.entropy is not None]
    if len(entropies) < len(passes):
        entropies = [-row.sum() for row in logprobs]
    others = [np.asarray(row) for row in sampled]
    entropies += [-row.sum() for row in others]
    return float(sum(entropies) / sum(map(len, [*logprobs, *others])))


def _unpadded(array_bt: NDArray[Any], lengths: Sequence[int]) -> list[Array]:
    return [row[:length] for row, length in zip(array_bt, lengths, strict=True)]


def _progress_line(progress: TrainingProgress, steps: int, batch: RolloutBatch, *, with_drift: bool) -> str:
    last = progress.curve[-1]
    figures = f"reward {last.reward:.3f} · kl {last.kl:.3f} · entropy {last.entropy:.3f} · {last.tokens} tokens"
    if with_drift and not math.isnan(last.drift_kl):
        figures += f" · drift {last.drift_kl:.2g}, {last.drift_share:.2%} outside [.5, 2]"
    line = f"step {progress.steps}/{steps} · {figures} · {progress.seconds:.1f} s"
    counts = {"rollouts without reward": batch.failed, "calls too long": batch.long}
    return line + "".join(f" · {count} {text}" for text, count in counts.items() if count)
