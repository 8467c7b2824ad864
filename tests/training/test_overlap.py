"""`trainer.overlap=1`: a server rolls out a batch while the one before is trained on, by weights one batch older."""

import copy
import json
import re
import threading
from dataclasses import dataclass, field
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="the toy's learner is torch's")
pytest.importorskip("peft", reason="adapters are PEFT's")

from sia_runner.config.training import EarlyStopping
from sia_runner.errors import TrainingError
from sia_runner.training import drivers
from sia_runner.wire.grants import ProviderDown
from sia_runner.wire.learning import LearnerAbilities
from tests.training import toy
from tests.training.toy_learner import ToyLearner


@dataclass
class Served:
    """A server beside the learner: rollouts are drawn from a copy of the weights that were published last."""

    policy: toy.ToyPolicy
    copies: list[Any] = field(default_factory=list)
    asked: list[tuple[int, int]] = field(default_factory=list)  # (step, number of the version that answered)
    trained: list[str] = field(default_factory=list)  # what happened in which order
    seconds: float = 0.0
    fails_at: int = -1

    def roll(self, units, *, samples, step, temperature):
        version, weights = len(self.copies), self.copies[-1]
        self.asked.append((step, version))
        if step == self.fails_at:
            raise ProviderDown("the server is gone")
        roll = toy.ToyRoll(toy.ToyPolicy(weights, self.policy.tokenizer))
        trajectories = roll(units, samples=samples, step=step, temperature=temperature)
        threading.Event().wait(self.seconds)
        self.trained.append(f"rolled {step}")
        assert len(self.copies) == version, "published while rollouts were under way"
        return trajectories

    def score(self, rows, weights):
        return self.policy.learners[-1].forward(rows, base=weights is None).logprobs

    def sample(self, *_):
        raise NotImplementedError


@pytest.fixture
def served(policy, monkeypatch):
    every = {"critic": True, "entropy": True, "temperature": True, "processes": True}
    monkeypatch.setattr(ToyLearner, "abilities", LearnerAbilities(**every, overlap=True))
    server, publish, step = Served(policy), ToyLearner.publish, ToyLearner.step

    def published(learner):
        server.copies.append(copy.deepcopy(learner.model).eval())
        return publish(learner)

    def stepped(learner, settings):
        server.trained.append(f"step {learner.steps}")
        return step(learner, settings)

    monkeypatch.setattr(ToyLearner, "publish", published)
    monkeypatch.setattr(ToyLearner, "step", stepped)
    policy.plain, policy.sampler = True, server
    return server


def train(served, folder, **changes):
    more = {name: changes.pop(name) for name in ("say", "record") if name in changes}
    settings = {"steps": 6, "prompts_per_step": 3, "group_size": 4, "overlap": 1, **changes}
    algorithm = toy.settings(settings.pop("name", "grpo"), **settings)
    return drivers.train(toy.assignment(served.policy, algorithm, folder, roll=served.roll, **more))


@pytest.mark.parametrize("iterations", [1, 2])
def test_each_batch_is_rolled_out_by_the_weights_of_one_batch_before(iterations, served, tmp_path):
    done = train(served, tmp_path, steps=5 * iterations, options={"iterations": iterations})
    steps = [number * iterations for number in range(5)]
    assert served.asked == list(zip(steps, [1, 1, 2, 3, 4], strict=True))
    assert done.steps == 5 * iterations and len(done.reward) == 5 * iterations


def test_without_it_each_batch_is_rolled_out_by_the_newest_weights(served, tmp_path):
    train(served, tmp_path, overlap=0, steps=4)
    assert served.asked == [(0, 1), (1, 2), (2, 3), (3, 4)]


def test_training_goes_on_while_rollouts_are_under_way_and_the_log_says_what_was_idle(served, tmp_path):
    served.seconds, lines = 0.4, []
    train(served, tmp_path, steps=3, say=lines.append)
    assert served.trained == ["rolled 0", "step 0", "rolled 1", "step 1", "rolled 2", "step 2"]
    shares = [re.fullmatch(r"overlap: of [\d.]+ s training was idle (\d+)%, rollouts (\d+)%", line) for line in lines]
    waits = [(int(match[1]), int(match[2])) for match in shares if match]
    assert len(waits) == 2 and all(idle > 20 and beside < 20 for idle, beside in waits), lines


def test_importance_weights_are_to_what_drew_the_rollouts(served, tmp_path):
    """The drift of a batch is what the step between did: none in the first one, which the newest weights drew."""
    figures: list = []
    train(served, tmp_path, steps=3, learning_rate=3e-3, record=figures.append)
    assert figures[0]["drift_kl"] == pytest.approx(0, abs=1e-9)
    assert all(one["drift_kl"] > 1e-5 for one in figures[1:])


@pytest.mark.parametrize("name", ["grpo", "ppo"])
@pytest.mark.parametrize("at", [3, 4, 5])
def test_a_kill_loses_no_step_counts_none_twice_and_changes_nothing(name, at, served, tmp_path):
    """Rollouts that wait for their turn are in the checkpoint: the resumed training learns from the same ones."""

    class Killed(BaseException):
        pass

    def kill(line):
        if line.startswith(f"step {at}/"):
            raise Killed

    whole = train(served, tmp_path / "whole", checkpoint_every=2, name=name)
    every, served.asked, served.copies = served.asked, [], []
    with pytest.raises(Killed):
        train(served, tmp_path / "cut", checkpoint_every=2, name=name, say=kill)
    threading.Event().wait(0.2)  # a killed process has no threads any more
    before, served.asked, served.copies = served.asked, [], []
    saved = 2 if at < 5 else 4
    resumed = train(served, tmp_path / "cut", checkpoint_every=2, name=name)
    assert [step for step, _ in served.asked] == list(range(saved + 1, 6)), "the batch of the checkpoint is there"
    assert [version for _, version in before] == [version for _, version in every][: len(before)]
    assert (resumed.reward, resumed.kl, resumed.tokens) == (whole.reward, whole.kl, whole.tokens)
    origins = [json.loads((tmp_path / one / "adapter" / "sia_adapter.json").read_text()) for one in ("whole", "cut")]
    assert origins[0] == origins[1]
    weights = [(tmp_path / one / "adapter" / "adapter_model.safetensors").read_bytes() for one in ("whole", "cut")]
    assert weights[0] == weights[1]


def test_rollouts_that_fail_end_the_training_after_what_was_trained_meanwhile_is_saved(served, tmp_path):
    served.fails_at = 3
    with pytest.raises(ProviderDown, match="the server is gone"):
        train(served, tmp_path, checkpoint_every=1)
    served.fails_at, served.asked = -1, []
    assert train(served, tmp_path, checkpoint_every=1).steps == 6
    assert [step for step, _ in served.asked] == [3, 4, 5], "three steps were done"


def test_an_early_stop_waits_for_rollouts_that_nobody_needs(served, tmp_path):
    limits = EarlyStopping(max_kl=None, min_entropy=100.0, max_length_ratio=None, max_drift=None, window=2)
    served.seconds = 0.3
    done = train(served, tmp_path, early_stopping=limits)
    assert done.steps == 2 and "entropy" in done.stopped
    assert served.trained[-1] == "rolled 2", "none is under way after the end"


def test_a_policy_that_answers_with_what_is_trained_is_refused(policy, tmp_path):
    policy.plain = True
    algorithm = toy.settings("grpo", overlap=1)
    with pytest.raises(TrainingError, match="overlap=1.*allowed: 0"):
        drivers.train(toy.assignment(policy, algorithm, tmp_path))


def test_offline_algorithms_have_nothing_to_overlap():
    with pytest.raises(ValueError, match="overlap has to be 0"):
        toy.settings("dpo", overlap=1)
