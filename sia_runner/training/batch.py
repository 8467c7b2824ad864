"""The questions of each step, and the trajectories of a step as training rows: one row per model call."""

import hashlib
import random
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from sia_runner.records import SampledCall, Trajectory
from sia_runner.selection.algorithm_choice import FloatArray, reward_of, rewarded_trajectories
from sia_runner.training.protocol import TrainingJob

IntArray = NDArray[np.intp]
BoolArray = NDArray[np.bool_]
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class RolloutBatch:
    """The trajectories of one step. Axes: n trajectories with a reward, b rows (model calls), t completion tokens.

    Trajectories are ordered by (unit, sample), rows by trajectory and then by call, so that a step is the same for a
    seed. Advantages belong to trajectories: one with twice as many calls must not count twice in its group's mean. A
    trajectory without rows counts in its group's mean only.
    """

    trajectories: tuple[Trajectory, ...]
    group_n: IntArray  # number of the trajectory's question
    reward_n: FloatArray  # float64
    rows: tuple[SampledCall, ...]
    trajectory_b: IntArray  # which trajectory a row belongs to
    step_b: IntArray  # position of the row among its trajectory's rows, from 0
    failed: int  # trajectories without a reward (infrastructure failures): also no part of their group's baseline
    long: int  # calls of more than `max_length` tokens, which have no row

    @property
    def mask_bt(self) -> BoolArray:
        """The mask of completion tokens: shape (rows, longest completion), True for a token; rows are padded right."""
        length_b = np.array([len(row.completion_ids) for row in self.rows], dtype=np.intp)
        return np.arange(length_b.max(initial=0))[None, :] < length_b[:, None]

    def groups(self) -> Iterator[IntArray]:
        """Yield the trajectories of each question, as indices into n."""
        for group in range(int(self.group_n.max(initial=-1)) + 1):
            yield np.flatnonzero(self.group_n == group)

    def equal_reward_share(self) -> float:
        """Return the share of questions whose samples all have the same reward.

        If no question has two samples, all count as those of one question.
        """
        several = [group for group in self.groups() if len(group) > 1] or [np.arange(len(self.reward_n))]
        return float(np.mean([np.ptp(self.reward_n[group]) == 0 for group in several]))

    def broadcast(self, advantage_n: FloatArray) -> NDArray[np.float32]:
        """Give each token the value of its trajectory: shape (rows, tokens), 0 on padding."""
        return (advantage_n[self.trajectory_b][:, None] * self.mask_bt).astype(np.float32)


def collect_batch(trajectories: Sequence[Trajectory], max_length: int | None = None) -> RolloutBatch:
    """Return the batch of one step. Raises TrainingError for a reward that is not finite.

    A call of more than `max_length` tokens is dropped: truncated, it would get a reward that was given for the rest.
    """
    rewarded = rewarded_trajectories(trajectories)
    units = {unit: index for index, unit in enumerate(dict.fromkeys(trajectory.unit for trajectory in rewarded))}
    rows: list[tuple[int, int, SampledCall]] = []
    long = 0
    for index, trajectory in enumerate(rewarded):
        answered = [call for call in trajectory.calls if call.completion_ids]
        fitting = [call for call in answered if max_length is None or call_length(call) <= max_length]
        long += len(answered) - len(fitting)
        rows += [(index, step, call) for step, call in enumerate(fitting)]
    return RolloutBatch(
        trajectories=tuple(rewarded),
        group_n=np.array([units[trajectory.unit] for trajectory in rewarded], dtype=np.intp),
        reward_n=np.array([reward_of(trajectory) for trajectory in rewarded], dtype=np.float64),
        rows=tuple(call for _, _, call in rows),
        trajectory_b=np.array([index for index, _, _ in rows], dtype=np.intp),
        step_b=np.array([step for _, step, _ in rows], dtype=np.intp),
        failed=len(trajectories) - len(rewarded),
        long=long,
    )


@dataclass(frozen=True, slots=True)
class Processes:
    """The processes that share an update, each with a part of the rollouts and of the rows; this is number `index`."""

    index: int = 0
    count: int = 1

    @staticmethod
    def current() -> "Processes":
        """Return those that torchrun started, if the learner has joined them; else this one alone."""
        distributed = sys.modules.get("torch.distributed")
        if distributed is None or not distributed.is_available() or not distributed.is_initialized():
            return Processes()
        return Processes(distributed.get_rank(), distributed.get_world_size())

    @property
    def first(self) -> bool:
        """True in the process that writes."""
        return self.index == 0

    def gather(self, own: list[Trajectory]) -> list[Trajectory]:
        """Return the trajectories of all processes, in the order of the processes."""
        if self.count == 1:
            return own
        from torch import distributed

        parts: list[Any] = [None] * self.count
        distributed.all_gather_object(parts, own)
        return [trajectory for part in parts for trajectory in part]

    def from_first(self, ask: Callable[[], Result]) -> Result:
        """Return what `ask` returns in the first process, which alone calls it."""
        if self.count == 1:
            return ask()
        from torch import distributed

        answer: list[Any] = [ask() if self.first else None]
        distributed.broadcast_object_list(answer, 0)
        return answer[0]

    def wait(self) -> None:
        """Wait until all processes are here."""
        if self.count > 1:
            from torch import distributed

            distributed.barrier()


def roll_out(job: TrainingJob, questions: Sequence[str], step: int, processes: Processes) -> list[Trajectory]:
    """Roll out this process's share of the questions; return the trajectories of all processes."""
    return processes.gather(roll_share(job, questions, step, processes))


def roll_share(job: TrainingJob, questions: Sequence[str], step: int, processes: Processes) -> list[Trajectory]:
    """Roll out this process's share of the questions. With `shards` the first process has all of them."""
    share = questions[processes.index :: processes.count]
    if job.algorithm.shards > 1:  # one server answers, and its adapter is the first process's
        share = questions if processes.first else []
    settings = {"samples": job.algorithm.group_size, "step": step, "temperature": job.algorithm.temperature}
    return job.roll(share, **settings) if share else []


class RolloutsAhead:
    """The rollouts of a batch, collected by a thread while weights are trained on the batch before."""

    def __init__(self, collect: Callable[[], list[Trajectory]]) -> None:
        """Begin. No interrupt waits for the thread."""
        self._future: Future[list[Trajectory]] = Future()
        self._began, self._ended = time.monotonic(), 0.0
        threading.Thread(target=self._run, args=[collect], name="rollouts", daemon=True).start()

    def _run(self, collect: Callable[[], list[Trajectory]]) -> None:
        try:
            trajectories = collect()
        except BaseException as error:  # noqa: BLE001 - `result` raises it
            self._ended = time.monotonic()
            self._future.set_exception(error)
        else:
            self._ended = time.monotonic()
            self._future.set_result(trajectories)

    def result(self) -> tuple[list[Trajectory], str]:
        """Wait for the rollouts; return them, and a line about the share of the time that each half was idle."""
        trained = time.monotonic()
        trajectories = self._future.result()
        end = time.monotonic()
        total = max(end - self._began, 1e-9)
        idle = (end - trained) / total, (end - self._ended) / total
        line = f"overlap: of {total:.1f} s training was idle {idle[0]:.0%}, rollouts {idle[1]:.0%}"
        return trajectories, line

    def wait(self) -> None:
        """Wait until it has ended, whatever came of it."""
        wait([self._future])


def why_no_rows(batch: RolloutBatch, max_length: int) -> str:
    """Return why a batch has nothing to train on; empty where it has."""
    if not len(batch.reward_n):
        return f"none of the {batch.failed} rollouts has a reward: all of them failed"
    if batch.rows:
        return ""
    if batch.long:
        return f"all {batch.long} calls exceed max_length={max_length} tokens"
    return "no rollout made a model call that names its question, so there is nothing to train on"


def call_length(call: SampledCall) -> int:
    """Return the number of tokens of prompt and completion."""
    return len(call.prompt_ids) + len(call.completion_ids)


def questions_of_step(units: Sequence[str], count: int, batch: int, seed: int) -> list[str]:
    """Return the `count` questions of batch number `batch`: all come up, newly ordered, before any comes again."""
    count = min(count, len(units))
    indices = range(batch * count, (batch + 1) * count)
    order: dict[int, list[str]] = {}
    for number in {index // len(units) for index in indices}:
        order[number] = list(units)
        random.Random(derive_seed(seed, "order", number)).shuffle(order[number])
    chosen = [order[index // len(units)][index % len(units)] for index in indices]
    # A question may come twice where one order ends and the next begins: its group would be too large.
    distinct = list(dict.fromkeys(chosen))
    others = (unit for unit in reversed(order[max(order)]) if unit not in distinct)
    return distinct + [next(others) for _ in range(len(chosen) - len(distinct))]


def derive_seed(*parts: object) -> int:
    """Return a seed below 2**31, different for different parts."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:4], "big") >> 1
