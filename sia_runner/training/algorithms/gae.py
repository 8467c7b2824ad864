"""Generalised advantage estimation (Schulman et al. 2016, arXiv 1506.02438), over all calls of a trajectory."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sia_runner.training.batch import Batch


def gae(reward_bt: Any, value_bt: Any, mask_bt: Any, gamma: float, lam: float) -> tuple[Any, Any]:
    """Return advantages and returns (advantage + value: the critic's targets), torch tensors of shape (b, t).

    A_t = sum_k (gamma lam)^k delta_{t+k}, delta_t = r_t + gamma V_{t+1} - V_t (equations 11 and 16); V = 0 after the
    last token. Positions outside the mask (padding, tokens that the policy did not sample) are skipped: they have
    advantage and return 0, and take no step of the discount.
    """
    import torch

    advantage_bt = torch.zeros_like(value_bt)
    next_value_b = torch.zeros_like(value_bt[:, 0])
    running_b = torch.zeros_like(next_value_b)
    for t in reversed(range(value_bt.shape[1])):
        token_b = mask_bt[:, t].bool()
        delta_b = reward_bt[:, t] + gamma * next_value_b - value_bt[:, t]
        running_b = torch.where(token_b, delta_b + gamma * lam * running_b, running_b)
        next_value_b = torch.where(token_b, value_bt[:, t], next_value_b)
        advantage_bt[:, t] = torch.where(token_b, running_b, 0.0)
    return advantage_bt, torch.where(mask_bt.bool(), advantage_bt + value_bt, 0.0)


@dataclass(frozen=True, slots=True)
class Chain:
    """The rows of a trajectory concatenated, so that value flows from a call back to the one before."""

    trajectory_b: NDArray[np.intp]  # renumbered: only trajectories that have rows
    step_b: NDArray[np.intp]
    reward_n: NDArray[Any]

    @staticmethod
    def of(batch: Batch) -> "Chain":
        """Return the chain of a batch."""
        present, trajectory_b = np.unique(batch.trajectory_b, return_inverse=True)
        return Chain(trajectory_b, batch.step_b, batch.reward_n[present])

    def join(self, array_bt: NDArray[Any]) -> NDArray[Any]:
        """Reshape (rows, tokens) to (trajectories, calls * tokens), zeros where a trajectory has fewer calls."""
        tokens = array_bt.shape[1]
        calls = int(self.step_b.max(initial=0)) + 1
        joined = np.zeros((len(self.reward_n), calls, tokens), dtype=array_bt.dtype)
        joined[self.trajectory_b, self.step_b] = array_bt
        return joined.reshape(len(self.reward_n), calls * tokens)

    def split(self, array_nt: NDArray[Any]) -> NDArray[Any]:
        """Reverse `join`."""
        calls = int(self.step_b.max(initial=0)) + 1
        return array_nt.reshape(len(self.reward_n), calls, -1)[self.trajectory_b, self.step_b]
