"""The offline loop: rounds of rollouts, each followed by optimizer steps on rows that were selected from them.

Best-of-N learns completions, DPO preferences. Axes: b rows, p pairs, t completion tokens.
"""

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

from sia_runner.errors import TrainingError
from sia_runner.training.algorithms.base import OfflineAlgorithm, PreferencePair, SupervisedExample
from sia_runner.training.batch import (
    RolloutBatch,
    collect_batch,
    derive_seed,
    questions_of_step,
    roll_out,
    why_no_rows,
)
from sia_runner.training.checkpoints import TrainingState
from sia_runner.training.drift import measure_drift
from sia_runner.training.loop import entropy_per_token, kl_to_base, training_rows
from sia_runner.training.losses import Array, PreferenceBatch, pad_rows, preference_weights, supervised_weights
from sia_runner.training.progress import TrainingProgress, TrainingStep, kl_row_stride
from sia_runner.wire.learning import ForwardPass, RowNumbers, StepSettings, TokenWeights, TrainingRow

SelectedRow = SupervisedExample | PreferencePair
_WITHOUT_CHOICE = {  # by trainer
    "sft": "no reward is above the lowest, or the threshold",
    "dpo": "no question has samples of different reward",
}


class OfflineRounds:
    """The rounds of one update. `progress.steps` counts optimizer steps over all rounds."""

    def __init__(self, state: TrainingState, offline: OfflineAlgorithm) -> None:
        self._state, self._job, self._learner, self._offline = state, state.job, state.learner, offline
        self._algorithm = state.job.algorithm
        self._rounds = min(offline.rounds, self._algorithm.steps)
        self._row_type: type[SelectedRow] = SupervisedExample if offline.trainer == "sft" else PreferencePair
        self._rows: list[SelectedRow] = []  # rows of the current round; empty: it has to be rolled out
        self._begin = 0  # steps that were done before the current round
        self._base: dict[TrainingRow, Array] = {}  # the base's logprobs of the round's pairs

    def run(self) -> TrainingProgress:
        """Run all rounds that are not done yet."""
        state = self._state
        if saved := state.resume():
            self._rows = [self._row_of(row) for row in saved["rows"]]
            self._begin = saved.get("begin", self._share(self._round))
        if self._done:
            return state.progress
        self._learner.publish()
        while not self._done:
            if not self._rows:
                self._collect()
            if self._rows:
                last = self._take_steps()
                self._learner.publish()
                state.prove_adapter(last)
            self._rows = []
        state.save(rows=[])
        return state.progress

    @property
    def _done(self) -> bool:
        progress = self._state.progress
        over = not self._rows and len(progress.curve) >= self._rounds
        return over or bool(progress.stopped) or progress.steps >= self._algorithm.steps

    @property
    def _round(self) -> int:
        """The number of the current round, or of the next one."""
        return len(self._state.progress.curve) - bool(self._rows)

    def _share(self, rounds: int) -> int:
        """Return the steps of the first so many rounds, if all take their share."""
        return -(-self._algorithm.steps * rounds // self._rounds)

    @property
    def _end(self) -> int:
        """The steps that are done at the end of the current round."""
        share = self._share(self._round + 1) - self._share(self._round)
        rows, batch = len(self._rows), min(self._offline.batch, len(self._rows))
        return self._begin + min(share, self._offline.epochs * rows // batch)

    def _row_of(self, data: dict[str, Any]) -> SelectedRow:
        return self._row_type(**{name: tuple(ids) for name, ids in data.items()})

    def _save(self) -> None:
        """Save a checkpoint with the round's rows: a resumed round trains on the same rollouts."""
        self._state.save(rows=[asdict(row) for row in self._rows], begin=self._begin)

    def _collect(self) -> None:
        """Collect the round's rollouts and select from them. Raises TrainingError if the first round has nothing."""
        job, algorithm, state, rounds = self._job, self._algorithm, self._state, self._rounds
        progress = state.progress
        questions = questions_of_step(job.units, -(-algorithm.prompt_count // rounds), self._round, job.seed)
        trajectories = roll_out(job, questions, progress.steps, state.processes)
        batch = collect_batch(trajectories, algorithm.max_length)
        selected = self._offline.select(trajectories, algorithm.max_length)
        reward = f"reward {batch.reward_n.mean():.3f}" if len(batch.reward_n) else "no reward"
        failed = f" · {batch.failed} rollouts without reward" if batch.failed else ""
        rows = f"{len(selected)} rows of {len(batch.rows)} calls"
        state.say(f"round {self._round + 1}/{rounds} · {reward} · {rows}{failed}")
        if not selected:
            reason = why_no_rows(batch, algorithm.max_length) or (
                f"nothing to select from {len(batch.reward_n)} rollouts: {_WITHOUT_CHOICE[self._offline.trainer]}"
            )
            if not progress.curve:
                raise TrainingError(reason)
            progress.stopped = f"round {self._round + 1}: {reason}"
            return
        progress.saw(trajectories)
        progress.curve.append(self._measure(batch))
        state.record(len(trajectories))
        self._rows, self._begin = list(selected), progress.steps
        self._save()

    def _measure(self, batch: RolloutBatch) -> TrainingStep:
        """Measure the rolled-out policy on a part of its rows: KL to the base, entropy, and the sampler's drift."""
        watched = range(0, len(batch.rows), kl_row_stride(len(batch.rows)))
        rows, sampled = training_rows(batch, watched), [batch.rows[row].logprobs for row in watched]
        now, base = self._learner.forward(rows), self._learner.forward(rows, base=True)
        drift = None
        if self._algorithm.temperature == 1:  # the learner's logprobs are at temperature 1 here
            drift = measure_drift(pad_rows(now.logprobs)[0], *pad_rows(sampled))
        return TrainingStep.of(batch, kl_to_base(base.logprobs, now.logprobs), entropy_per_token([now]), drift=drift)

    def _take_steps(self) -> list[TrainingRow]:
        """Take the round's optimizer steps, in order; return the rows of the last one."""
        progress, end, rows = self._state.progress, self._end, []
        # All at once, so that sums round alike after a resume in the middle of the round.
        pairs = training_pairs([row for row in self._rows if isinstance(row, PreferencePair)])
        self._base = dict(zip(pairs, self._learner.forward(pairs, base=True).logprobs, strict=True)) if pairs else {}
        while progress.steps < end:
            chosen = self._batch(progress.steps)
            rows = self._learn(chosen)
            last = progress.curve[-1]
            tokens = sum(len(row.completion_ids) for row in rows)
            progress.curve[-1] = replace(last, tokens=last.tokens + tokens)
            progress.steps += 1
            if progress.steps % self._algorithm.checkpoint_every == 0 and progress.steps < end:
                self._save()
        return rows

    def _batch(self, step: int) -> list[SelectedRow]:
        """Return the rows of one optimizer step: all of a round come once before any comes again."""
        numbers = [str(index) for index in range(len(self._rows))]
        seed = derive_seed(self._job.seed, "round", self._round)
        chosen = questions_of_step(numbers, self._offline.batch, step - self._begin, seed)
        return [self._rows[int(index)] for index in chosen]

    def _learn(self, chosen: Sequence[SelectedRow]) -> list[TrainingRow]:
        """Take one optimizer step on some rows; return them as the learner takes them, of a pair both."""
        examples = [row for row in chosen if isinstance(row, SupervisedExample)]
        pairs = [row for row in chosen if isinstance(row, PreferencePair)]
        if examples:
            rows = [TrainingRow(row.prompt_ids, row.completion_ids) for row in examples]
            tokens = sum(len(row.completion_ids) for row in rows)
            self._learner.backward(rows, lambda forward: _lowered_examples(forward, tokens))
        else:
            rows = training_pairs(pairs)
            loss, beta = self._offline.settings["loss"], self._offline.settings["beta"]
            base = [self._base[row] for row in rows]
            together = [(2 * pair, 2 * pair + 1) for pair in range(len(pairs))]

            def lower(forward: ForwardPass) -> TokenWeights:
                return lowered_pairs(forward, base, loss, beta, len(pairs))

            self._learner.backward(rows, lower, together=together)
        self._learner.step(StepSettings(self._algorithm.learning_rate))
        return rows


def training_pairs(pairs: Sequence[PreferencePair]) -> list[TrainingRow]:
    """Return the rows of pairs: 2p is the chosen completion of pair p, and 2p + 1 the rejected one."""
    return [TrainingRow(pair.prompt_ids, ids) for pair in pairs for ids in (pair.chosen_ids, pair.rejected_ids)]


def _lowered_examples(forward: ForwardPass, tokens: int) -> TokenWeights:
    mask_bt = pad_rows(forward.logprobs)[1]
    weight_bt = supervised_weights(mask_bt, tokens)
    return TokenWeights([row[: len(own)] for row, own in zip(weight_bt, forward.logprobs, strict=True)])


def lowered_pairs(forward: ForwardPass, base: RowNumbers, loss: Any, beta: float, pairs: int) -> TokenWeights:
    """Lower DPO's loss for a pass of whole pairs: of row 2p, the chosen one, and row 2p + 1, in any order."""
    place = {row: at for at, row in enumerate(forward.rows)}
    chosen = [row for row in forward.rows if row % 2 == 0]
    halves = chosen, [row + 1 for row in chosen]
    now = [pad_rows([forward.logprobs[place[row]] for row in half]) for half in halves]
    bases = [pad_rows([base[row] for row in half])[0] for half in halves]
    batch = PreferenceBatch(now[0][0], now[1][0], bases[0], bases[1], now[0][1], now[1][1])
    weights: list[Any] = [None] * len(place)
    for half, weight_pt in zip(halves, preference_weights(loss, beta, batch, pairs), strict=True):
        for row, own in zip(half, weight_pt, strict=True):
            weights[place[row]] = own[: len(forward.logprobs[place[row]])]
    return TokenWeights(weights)
