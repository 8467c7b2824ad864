"""A training that ends at any moment goes on from a checkpoint: same adapter, no step twice in any weights."""

import copy
from collections.abc import Callable
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="the toy's learner is torch's")

from sia_runner.training import checkpoints, drivers
from sia_runner.wire.adapter_files import WEIGHTS_FILE
from tests.training import toy, toy_learner

CASES = {
    "grpo": {"steps": 4, "prompts_per_step": 2, "checkpoint_every": 2, "kl_coefficient": 0.05},
    "ppo": {"steps": 4, "prompts_per_step": 2, "checkpoint_every": 1, "options": {"iterations": 2}},
    "dpo": {"steps": 4, "prompts": 8, "checkpoint_every": 1, "kl_coefficient": 0.1, "options": {"rounds": 2}},
}
LEARNER = ("forward", "backward", "step", "publish", "save", "load", "forget", "export")


class Crash(BaseException):
    """What nothing catches, like kill -9."""


class Moments:
    """Counts the moments before and after each call of a learner and of the disk, and crashes at one of them."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.count, self.crash_at = 0, -1
        self.steps: list[int] = []  # the learner's number of each optimizer step that was taken
        for owner, names in ((toy_learner.ToyLearner, LEARNER), (checkpoints.CheckpointStore, ("write", "prune"))):
            for name in names:
                patch.setattr(owner, name, self._watched(name, getattr(owner, name)))

    def _watched(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def watched(owner: Any, *args: Any, **settings: Any) -> Any:
            self._pass()
            result = call(owner, *args, **settings)
            if name == "step":
                self.steps.append(owner.steps)
            self._pass()
            return result

        return watched

    def _pass(self) -> None:
        self.count += 1
        if self.count == self.crash_at:
            raise Crash


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", list(CASES))
def test_a_crash_at_any_moment_changes_nothing(algorithm, warmed, tmp_path, monkeypatch):
    moments = Moments(monkeypatch)
    settings = toy.settings(algorithm, group_size=4, **CASES[algorithm])

    def train(folder: str) -> Any:
        policy = toy.ToyPolicy(copy.deepcopy(warmed), toy.small_tokenizer(), plain=True)
        return drivers.train(toy.assignment(policy, settings, tmp_path / folder))

    whole = train("whole")
    weights = (tmp_path / "whole" / "adapter" / WEIGHTS_FILE).read_bytes()
    assert moments.steps == [1, 2, 3, 4]
    for moment in range(1, moments.count + 1):
        moments.count, moments.crash_at, moments.steps = 0, moment, []
        with pytest.raises(Crash):
            train(f"cut-{moment}")
        before, moments.crash_at, moments.steps = moments.steps, -1, []
        again = train(f"cut-{moment}")
        assert (tmp_path / f"cut-{moment}" / "adapter" / WEIGHTS_FILE).read_bytes() == weights, moment
        assert (again.steps, again.reward, again.kl, again.tokens) == (4, whole.reward, whole.kl, whole.tokens)
        # The second process goes on at a step that the first had reached, and each of its steps follows the one before.
        assert moments.steps == list(range(5 - len(moments.steps), 5))
        assert len(moments.steps) >= 4 - len(before)
