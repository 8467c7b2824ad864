"""Trajectories as rows to train on: one row per model call, rewards and groups kept per trajectory."""

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sia_runner.records import Sampled, Trajectory
from sia_runner.training.protocol import TrainingError

Floats = NDArray[np.floating]
Ints = NDArray[np.intp]
Bools = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class LeftOut:
    """What gave no row, counted so that the driver can say it."""

    failed: int  # trajectories without a reward (infrastructure failures): also no part of their group's baseline
    silent: int  # trajectories with a reward and no row: they count in their group's baseline only
    empty: int  # calls without a completion token
    long: int  # calls of more than `max_length` tokens


@dataclass(frozen=True, slots=True)
class Batch:
    """The trajectories of one step. Axes: n trajectories with a reward, b rows (model calls), t completion tokens.

    Trajectories are ordered by (unit, sample), rows by trajectory and then by call, whatever order they arrived in, so
    that a step is the same for a seed. Advantages are a matter of trajectories: one that makes twice as many calls
    must not count twice in its group's mean.
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
        """Shape (rows, tokens of the longest completion): True where a row has a token; rows are padded right."""
        length_b = np.array([len(row.completion_ids) for row in self.rows], dtype=np.intp)
        return np.arange(length_b.max(initial=0))[None, :] < length_b[:, None]

    def groups(self) -> Iterator[Ints]:
        """The trajectories of each question, as indices into n."""
        for group in range(int(self.group_n.max(initial=-1)) + 1):
            yield np.flatnonzero(self.group_n == group)

    def alike(self) -> float:
        """Share of the questions whose samples all got the same reward. Where no question has two samples, 1 if all
        rewards are the same and 0 otherwise: then they are compared with a critic's values, not with one another."""
        several = [group for group in self.groups() if len(group) > 1] or [np.arange(len(self.reward_n))]
        return float(np.mean([np.ptp(self.reward_n[group]) == 0 for group in several]))

    def spread(self, advantage_n: Floats) -> NDArray[np.float32]:
        """One value per trajectory, given to each of its tokens: shape (rows, tokens), 0 on padding."""
        return (advantage_n[self.trajectory_b][:, None] * self.mask_bt).astype(np.float32)


def collect(trajectories: Sequence[Trajectory], max_length: int | None = None) -> Batch:
    """The batch of one step. `max_length`: tokens of prompt and completion together; None: no bound.

    A longer call is left out whole: cut at its end it would carry a reward that was given for the rest. Raises
    TrainingError where a reward is not finite.
    """
    kept = scored(trajectories)
    units = {unit: index for index, unit in enumerate(dict.fromkeys(one.unit for one in kept))}
    rows: list[tuple[int, int, Sampled]] = []
    empty = long = 0
    for index, one in enumerate(kept):
        spoken = [call for call in one.calls if call.completion_ids]
        fitting = [call for call in spoken if max_length is None or length(call) <= max_length]
        empty, long = empty + len(one.calls) - len(spoken), long + len(spoken) - len(fitting)
        rows += [(index, step, call) for step, call in enumerate(fitting)]
    silent = len(kept) - len({index for index, _, _ in rows})
    return Batch(
        trajectories=tuple(kept),
        group_n=np.array([units[one.unit] for one in kept], dtype=np.intp),
        reward_n=np.array([reward_of(one) for one in kept], dtype=np.float64),
        rows=tuple(call for _, _, call in rows),
        trajectory_b=np.array([index for index, _, _ in rows], dtype=np.intp),
        step_b=np.array([step for _, step, _ in rows], dtype=np.intp),
        left_out=LeftOut(len(trajectories) - len(kept), silent, empty, long),
    )


def scored(trajectories: Sequence[Trajectory]) -> list[Trajectory]:
    """Those that have a reward, ordered by (unit, sample). Raises TrainingError where one is not finite."""
    kept = [one for one in trajectories if one.reward is not None]
    for one in kept:
        if not math.isfinite(reward_of(one)):
            raise TrainingError(f"the reward of question {one.unit}, sample {one.sample} is {one.reward}: not finite")
    return sorted(kept, key=lambda one: (one.unit, one.sample))


def by_question(trajectories: Sequence[Trajectory]) -> dict[str, list[Trajectory]]:
    """Trajectories that have a reward, by question, both in order."""
    questions: dict[str, list[Trajectory]] = defaultdict(list)
    for one in scored(trajectories):
        questions[one.unit].append(one)
    return dict(questions)


def reward_of(one: Trajectory) -> float:
    """The reward of a trajectory that has one."""
    if one.reward is None:
        raise ValueError(f"question {one.unit}, sample {one.sample} has no reward")
    return one.reward


def length(call: Sampled) -> int:
    """Tokens of prompt and completion."""
    return len(call.prompt_ids) + len(call.completion_ids)
