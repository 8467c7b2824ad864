"""The comparison of the trajectories of one question with one another."""

from collections.abc import Callable

import numpy as np

from sia_runner.training.batch import Batch, Bools
from sia_runner.training.shape import Floats


def compare(batch: Batch, within: Callable[[Floats], Floats], min_size: int = 2) -> tuple[Floats, Bools]:
    """Apply `within` (rewards of one group -> advantages) to groups of `min_size` or more whose rewards differ.

    The other groups have no signal: their advantages are exactly 0. Infrastructure failures can make a group smaller
    than configured.

    Returns advantages, shape (trajectories,), and which trajectories have a signal.
    """
    advantage_n = np.zeros(len(batch.trajectories))
    signal_n = np.zeros(len(batch.trajectories), dtype=np.bool_)
    for group in batch.groups():
        reward_g = batch.reward_n[group]
        if len(group) >= min_size and np.ptp(reward_g) > 0:
            advantage_n[group] = within(reward_g)
            signal_n[group] = True
    return advantage_n, signal_n
