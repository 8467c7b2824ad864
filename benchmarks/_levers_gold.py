"""The supervised control: what the offline driver trains on are the right answers, in place of sampled ones."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any
from unittest.mock import patch

from sia_runner.experiment.weights.update import HarnessRollouts
from sia_runner.records import SampledCall, Trajectory


@contextmanager
def gold_rollouts() -> Iterator[None]:
    """Let weights updates within this context train on gold answers.

    Everything else is that of the other arms: the harness's own prompts, adapter, optimizer, gate and test.
    """
    with patch("sia_runner.experiment.weights.update.HarnessRollouts", _Gold):
        yield


class _Gold:
    """Like `HarnessRollouts`, but gives each question once, with the right answer."""

    def __init__(self, context: Any, *rest: Any, **keywords: Any) -> None:
        self._roll = HarnessRollouts(context, *rest, **keywords)
        self._gold = context.task._units.answers  # pyright: ignore - no property tells the answers of rollout
        self._tokenizer = context.gateway.policy().tokenizer

    def __call__(self, units: Sequence[str], *, samples: int, step: int, temperature: float) -> list[Trajectory]:
        trajectories = self._roll(units, samples=1, step=step, temperature=temperature)
        return [self._answered(trajectory) for trajectory in trajectories]

    def _answered(self, trajectory: Trajectory) -> Trajectory:
        answer_ids = self._tokenizer(self._gold[trajectory.unit], add_special_tokens=False)["input_ids"]
        ids = (*answer_ids, self._tokenizer.eos_token_id)
        return replace(trajectory, calls=tuple(_call(call, ids) for call in trajectory.calls), reward=1.0)


def _call(call: SampledCall, ids: tuple[int, ...]) -> SampledCall:
    return replace(call, completion_ids=ids, logprobs=(0.0,) * len(ids), finish_reason="stop")
