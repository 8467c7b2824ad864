"""Batches of trajectories as training rows: one row per model call; rewards and groups per trajectory."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sia_runner.records import Sampled, Trajectory
from sia_runner.training.shape import Floats, reward_of, scored

Ints = NDArray[np.intp]
Bools = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class LeftOut:
    """Counts of what gave no row, for the driver's report."""

    failed: int  # trajectories without a reward (infrastructure failures): also no part of their group's baseline
    silent: int  # trajectories with a reward and no row: they count in their group's baseline only
    empty: int  # calls without a completion token
    long: int  # calls of more than `max_length` tokens


@dataclass(frozen=True, slots=True)
class Batch:
    """The trajectories of one step. Axes: n trajectories with a reward, b rows (model calls), t completion tokens.

    Trajectories are ordered by (unit, sample), rows by trajectory and then by call, whatever order they arrived in, so
    that a step is the same for a seed. Advantages belong to trajectories: one with twice as many calls must not count
    twice in its group's mean.
    """

    trajectories: tuple[Trajectory, ...]
    group_n: Ints  # number of the trajectory's question
    reward_n: Floats  # float64
    rows: tuple[Sampled, ...]
    trajectory_b: Ints  # which trajectory a row belongs to
    step_b: Ints  # position of the row among its trajectory's rows, from 0
    left_out: LeftOut

    @property
    def mask_bt(self) -> Bools:
        """The mask of completion tokens: shape (rows, longest completion), True for a token; rows are padded right."""
        length_b = np.array([len(row.completion_ids) for row in self.rows], dtype=np.intp)
        return np.arange(length_b.max(initial=0))[None, :] < length_b[:, None]

    def groups(self) -> Iterator[Ints]:
        """Yield the trajectories of each question, as indices into n."""
        for group in range(int(self.group_n.max(initial=-1)) + 1):
            yield np.flatnonzero(self.group_n == group)

    def equal_reward_share(self) -> float:
        """Return the share of questions whose samples all have the same reward.

        If no question has two samples: 1 if all rewards are the same, else 0; such rewards are compared with a critic's
        values, not with one another.
        """
        several = [group for group in self.groups() if len(group) > 1] or [np.arange(len(self.reward_n))]
        return float(np.mean([np.ptp(self.reward_n[group]) == 0 for group in several]))

    def broadcast(self, advantage_n: Floats) -> NDArray[np.float32]:
        """Give each token the value of its trajectory: shape (rows, tokens), 0 on padding."""
        return (advantage_n[self.trajectory_b][:, None] * self.mask_bt).astype(np.float32)


def collect(trajectories: Sequence[Trajectory], max_length: int | None = None) -> Batch:
    """Return the batch of one step. Raises TrainingError for a reward that is not finite.

    `max_length`: tokens of prompt and completion together; None: no limit. A longer call is dropped: truncated, it
    would get a reward that was given for the rest.
    """
    rewarded = scored(trajectories)
    units = {unit: index for index, unit in enumerate(dict.fromkeys(trajectory.unit for trajectory in rewarded))}
    rows: list[tuple[int, int, Sampled]] = []
    empty = long = 0
    for index, trajectory in enumerate(rewarded):
        answered = [call for call in trajectory.calls if call.completion_ids]
        fitting = [call for call in answered if max_length is None or length(call) <= max_length]
        empty, long = empty + len(trajectory.calls) - len(answered), long + len(answered) - len(fitting)
        rows += [(index, step, call) for step, call in enumerate(fitting)]
    silent = len(rewarded) - len({index for index, _, _ in rows})
    return Batch(
        trajectories=tuple(rewarded),
        group_n=np.array([units[trajectory.unit] for trajectory in rewarded], dtype=np.intp),
        reward_n=np.array([reward_of(trajectory) for trajectory in rewarded], dtype=np.float64),
        rows=tuple(call for _, _, call in rows),
        trajectory_b=np.array([index for index, _, _ in rows], dtype=np.intp),
        step_b=np.array([step for _, step, _ in rows], dtype=np.intp),
        left_out=LeftOut(len(trajectories) - len(rewarded), silent, empty, long),
    )


def length(call: Sampled) -> int:
    """Return the number of tokens of prompt and completion."""
    return len(call.prompt_ids) + len(call.completion_ids)
