"""The supervised control: what the offline driver trains on are the right answers, in place of sampled ones."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any
from unittest.mock import patch

from sia_runner.records import Sampled, Trajectory
from sia_runner.rooms import models, rooms
from sia_runner.weights.rolling import Rolling


@contextmanager
def gold_rollouts() -> Iterator[None]:
    """A weights update within trains on gold answers. Everything else of a run is as it is: prompts are the harness's
    own, adapter, optimizer, gate and test are those of every other arm."""
    with patch("sia_runner.weights.learning.Rolling", _Gold):
        yield


class _Gold:
    """See training.protocol.Roll: each question once, answered right. Made as Rolling is, in whose place it stands."""

    def __init__(self, config: Any, run: Any, *rest: Any, **named: Any) -> None:
        self._roll = Rolling(config, run, *rest, **named)
        self._gold = rooms(config).task._units.answers  # pyright: ignore - no room tells the answers of rollout
        gateway = models(config, run)
        assert gateway is not None
        self._tokenizer = gateway.policy().tokenizer

    def __call__(self, units: Sequence[str], *, samples: int, step: int, temperature: float) -> list[Trajectory]:
        asked = self._roll(units, samples=1, step=step, temperature=temperature)
        return [self._answered(one) for one in asked]

    def _answered(self, one: Trajectory) -> Trajectory:
        said = self._tokenizer(self._gold[one.unit], add_special_tokens=False)["input_ids"]
        ids = (*said, self._tokenizer.eos_token_id)
        return replace(one, calls=tuple(_call(call, ids) for call in one.calls), reward=1.0)


def _call(call: Sampled, ids: tuple[int, ...]) -> Sampled:
    return replace(call, completion_ids=ids, logprobs=(0.0,) * len(ids), finish_reason="stop")
