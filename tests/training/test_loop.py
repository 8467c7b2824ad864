"""The online loop over a learner: what it tells a learner, what it records, and a server that samples beside it."""

import json
import math
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the toy's learner is torch's")

from sia_runner.config.training import EarlyStopping, LoraSettings
from sia_runner.errors import TrainingError
from sia_runner.training import drivers
from sia_runner.training.algorithms.base import TrainingSignal, online_algorithm
from sia_runner.training.loop import PolicyLowering
from sia_runner.training.losses import StepSize, pad_rows
from sia_runner.training.progress import TrainingProgress
from sia_runner.wire.adapter_files import WEIGHTS_FILE
from sia_runner.wire.learning import ForwardPass, LearnerAbilities
from sia_runner.wire.policy import PolicyError
from tests.training import toy
from tests.training.trajectories import configured


@pytest.fixture
def policy(policy):
    policy.plain = True
    return policy


def short(**changes):
    return toy.settings("grpo", **{"steps": 3, "prompts_per_step": 3, "group_size": 4, **changes})


RANDOM = np.random.default_rng(0)
LENGTHS = (3, 1, 4, 2)
SAMPLED, BASE, NOW = ([RANDOM.normal(-1, 0.3, length) for length in LENGTHS] for _ in range(3))
ADVANTAGES = [RANDOM.normal(size=length) for length in LENGTHS]


def lowering(name="grpo", correction: Any = "none", **changes):
    online = online_algorithm(configured(name, **changes))
    advantage_bt, mask_bt = pad_rows(ADVANTAGES)
    value_bt = np.zeros((4, 4)) if name == "ppo" else None
    signal = TrainingSignal(advantage_bt, np.ones(4, dtype=np.bool_), mask_bt * 1.0)
    base = BASE if changes.get("kl_coefficient") else None
    return PolicyLowering(online, SAMPLED, signal, StepSize(4, 10, 16), base, value_bt, correction)


def passed(logprobs, *rows):
    return ForwardPass(rows, [logprobs[row] for row in rows], None, [BASE[row] for row in rows])


@pytest.mark.parametrize("correction", ["none", "truncate", "mask"])
@pytest.mark.parametrize("name", ["grpo", "ppo"])
def test_any_part_of_the_rows_has_the_weights_that_it_has_in_the_whole(name, correction):
    lower = lowering(name, correction, kl_coefficient=0.1)
    for _ in range(2):  # in the first step on some rollouts, and in a later one
        whole = lower(passed(NOW, 0, 1, 2, 3))
        for rows in ((2, 0), (3,), (1,)):
            part = lower(passed(NOW, *rows))
            for at, row in enumerate(rows):
                assert part.logprobs[at] == pytest.approx(whole.logprobs[row], abs=1e-15)
                assert len(part.logprobs[at]) == LENGTHS[row]
                if name == "ppo":
                    assert part.values is not None and whole.values is not None
                    assert part.values[at] == pytest.approx(whole.values[row], abs=1e-15)
        lower.drift(BASE)


def test_a_correction_weights_tokens_by_the_drift_and_clips_by_what_the_learner_did():
    """In the first step the learner's own ratio is 1 whatever the sampler said; later it is to that moment."""
    plain, corrected = (lowering(correction=name, clip=0.05) for name in ("none", "truncate"))
    learner = [row + math.log(1.5) for row in SAMPLED]  # the sampler drew them less often than the learner does
    good = np.concatenate(ADVANTAGES) > 0

    def weights(lower, logprobs):
        return np.concatenate(lower(passed(logprobs, 0, 1, 2, 3)).logprobs)

    assert not weights(plain, learner)[good].any(), "the drift is taken for a step of the policy, and clipped"
    assert weights(corrected, learner) == pytest.approx(-1.5 * np.concatenate(ADVANTAGES) / 10)
    assert corrected.drift(learner).outside == 0
    assert not weights(corrected, [row + 0.1 for row in learner])[good].any()
    near = weights(corrected, [row + 0.01 for row in learner])
    assert near == pytest.approx(-1.5 * math.exp(0.01) * np.concatenate(ADVANTAGES) / 10)


def test_each_step_has_the_drift_of_its_rollouts_and_none_where_nothing_was_learned(policy, tmp_path):
    figures: list = []
    roll = toy.ToyRoll(policy)
    roll.change = lambda one: one if len(roll.asked) < 3 else replace(one, reward=1.0)
    trained = drivers.train(toy.assignment(policy, short(), tmp_path, roll=roll, record=figures.append))
    assert [one["drift_kl"] for one in figures[:2]] == pytest.approx([0, 0], abs=1e-9)
    assert [one["drift_share"] for one in figures[:2]] == [0, 0]
    assert math.isnan(figures[2]["drift_kl"]) and math.isnan(figures[2]["drift_share"])
    assert trained.drift_kl == (figures[0]["drift_kl"], figures[1]["drift_kl"], None)
    assert trained.drift_share == (0, 0, None)


def test_rollouts_of_another_sampler_are_seen_and_end_the_training(policy, tmp_path):
    """Said to be drawn with a probability 20 times as high as the learner's."""
    figures: list = []
    roll = toy.ToyRoll(policy, change=lambda one: toy.with_logprobs(one, math.log(20)))
    limits = EarlyStopping(max_kl=None, min_entropy=None, max_length_ratio=None, max_drift=1.0, window=2)
    settings = short(steps=9, early_stopping=limits)
    trained = drivers.train(toy.assignment(policy, settings, tmp_path, roll=roll, record=figures.append))
    assert trained.steps == 2
    assert "KL of the sampler to the learner" in trained.stopped
    assert figures[0]["drift_kl"] == pytest.approx(math.log(20) + 1 / 20 - 1, abs=1e-4)
    assert figures[0]["drift_share"] == 1


def test_old_states_are_forgotten_and_a_failure_is_said_once_and_stops_nothing(policy, tmp_path, monkeypatch):
    forgotten, lines = [], []

    def forget(learner, state):
        forgotten.append(state["file"])
        raise OSError("no such call\nat this service")

    monkeypatch.setattr("tests.training.toy_learner.ToyLearner.forget", forget)
    limits = EarlyStopping(max_kl=None, min_entropy=None, max_length_ratio=None, max_uniform_groups=None, window=1)
    settings = short(steps=5, checkpoint_every=1, early_stopping=limits)
    trained = drivers.train(toy.assignment(policy, settings, tmp_path, say=lines.append))
    assert trained.steps == 5
    assert forgotten == [f"step-{step:06d}-{step + 1}/learner.pt" for step in range(3)]
    assert [line for line in lines if "checkpoint" in line] == ["an old checkpoint is not deleted: no such call"]


@dataclass
class BesideSampler:
    """A server with a copy of the weights: scores by the toy's newest learner, or without the adapter."""

    policy: toy.ToyPolicy
    drops_adapter: bool = False
    noise: float = 0.0
    asked: list[Any] = field(default_factory=list)

    def score(self, rows, weights):
        self.asked.append(weights)
        random = np.random.default_rng(len(self.asked))
        scored = self.policy.learners[-1].forward(rows, base=self.drops_adapter or weights is None).logprobs
        return [row + random.normal(0, self.noise, len(row)) for row in scored]

    def sample(self, *args):
        raise NotImplementedError


@pytest.mark.parametrize("algorithm", ["grpo", "best_of_n", "dpo"])
def test_a_server_that_drops_the_adapter_is_refused_before_a_second_update(algorithm, policy, tmp_path):
    policy.sampler = BesideSampler(policy, drops_adapter=True)
    changes: dict = {} if algorithm == "grpo" else {"prompts": 16, "steps": 4, "options": {"rounds": 2}}
    changes |= {"kl_coefficient": 0.1} if algorithm == "dpo" else {}
    roll = toy.ToyRoll(policy)
    with pytest.raises(PolicyError, match="without the adapter that was published: it shows -?0% of its effect"):
        drivers.train(toy.assignment(policy, toy.settings(algorithm, **changes), tmp_path, roll=roll))
    assert len(roll.asked) == 1
    assert not (tmp_path / "adapter").exists()


def test_a_server_that_applies_it_is_asked_once(policy, tmp_path):
    policy.sampler = BesideSampler(policy, noise=1e-3)
    lines: list[str] = []
    drivers.train(toy.assignment(policy, short(), tmp_path, say=lines.append))
    assert len(policy.sampler.asked) == 2
    assert sum("applies the adapter" in line for line in lines) == 1


def test_a_server_whose_noise_hides_a_step_is_asked_again_after_the_next(policy, tmp_path):
    policy.sampler = BesideSampler(policy, noise=0.5)
    lines: list[str] = []
    drivers.train(toy.assignment(policy, short(learning_rate=1e-6), tmp_path, say=lines.append))
    assert len(policy.sampler.asked) == 6
    assert "too small to tell" in lines[-1]


def test_weights_are_published_before_the_first_rollouts_and_after_each_batch(policy, tmp_path):
    versions: list[int] = []
    roll = toy.ToyRoll(policy)
    roll.change = lambda one: versions.append(policy.learners[-1].published) or one
    drivers.train(toy.assignment(policy, short(steps=4, options={"iterations": 2}), tmp_path, roll=roll))
    assert sorted(set(versions)) == [1, 2]
    assert policy.learners[-1].published == 3


@pytest.mark.parametrize(
    ("name", "changes", "lacking", "word"),
    [
        ("ppo", {}, "critic", "no value head; without one: entropic, grpo, reinforce"),
        ("grpo", {"temperature": 0.7}, "temperature", "temperature=0.7"),
        ("grpo", {"processes": 2}, "processes", "processes=2"),
    ],
)
def test_what_a_learner_cannot_do_is_refused_by_name(name, changes, lacking, word, policy, tmp_path, monkeypatch):
    from tests.training.toy_learner import ToyLearner

    abilities = {"critic": True, "entropy": True, "temperature": True, "processes": True, lacking: False}
    monkeypatch.setattr(ToyLearner, "abilities", LearnerAbilities(**abilities))
    with pytest.raises(TrainingError, match=word):
        drivers.train(toy.assignment(policy, toy.settings(name, **changes), tmp_path))


def test_a_backend_that_shows_no_distribution_gets_the_estimate_of_its_entropy(policy, tmp_path, monkeypatch):
    from tests.training.toy_learner import ToyLearner

    whole = drivers.train(toy.assignment(policy, short(steps=1, group_size=32), tmp_path / "whole"))
    backward = ToyLearner.backward
    monkeypatch.setattr(
        ToyLearner, "backward", lambda *args, **more: [replace(one, entropy=None) for one in backward(*args, **more)]
    )
    sampled = drivers.train(toy.assignment(policy, short(steps=1, group_size=32), tmp_path / "sampled"))
    assert sampled.entropy[0] != whole.entropy[0]
    assert sampled.entropy[0] == pytest.approx(whole.entropy[0], rel=0.15)


@pytest.mark.parametrize("name", ["grpo", "reinforce"])
def test_rows_without_advantage_cost_no_pass_and_count_in_the_mean(name, policy, tmp_path, monkeypatch):
    """A KL too small to matter has every row passed, which is what the step without them is compared with."""
    from tests.training.toy_learner import ToyLearner

    backward, passed_rows = ToyLearner.backward, []
    monkeypatch.setattr(
        ToyLearner, "backward", lambda own, rows, *args: passed_rows.append(len(rows)) or backward(own, rows, *args)
    )
    size = {"steps": 1, "prompts_per_step": 4, "group_size": 4}

    def trained(folder, **changes):
        number = iter(range(16))  # of four questions, one has answers of which only some are right
        roll = toy.ToyRoll(policy, change=lambda one: replace(one, reward=float(next(number) in (0, 3))))
        settings = toy.settings(name, **size, **changes)
        return drivers.train(toy.assignment(policy, settings, tmp_path / folder, roll=roll))

    without, whole = trained("without", kl_coefficient=0.0), trained("whole", kl_coefficient=1e-300)
    assert passed_rows == [4, 16]
    assert without.entropy[0] == pytest.approx(whole.entropy[0], rel=0.3)  # estimated for the other rows
    assert_equal_adapters(tmp_path / "without", tmp_path / "whole")


def critic_settings(**changes):
    size = {"steps": 6, "prompts_per_step": 4, "checkpoint_every": 2, "lora": LoraSettings(rank=4, alpha=8)}
    return toy.settings("ppo", **{**size, **changes})


def adapter_in(folder):
    from safetensors.torch import load_file

    return load_file(folder / "adapter" / WEIGHTS_FILE)


def assert_equal_adapters(folder, other):
    pairs = [(weight, adapter_in(other)[name]) for name, weight in adapter_in(folder).items()]
    assert all(torch.allclose(weight, same, atol=1e-5) for weight, same in pairs)


@pytest.mark.parametrize(("factor", "offset"), [(100, -100), (2, -1), (1e-3, 5)])
def test_ppo_does_not_depend_on_the_unit_of_the_rewards(factor, offset, policy, tmp_path):
    drivers.train(toy.assignment(policy, critic_settings(), tmp_path / "one"))
    roll = toy.ToyRoll(policy, change=lambda one: replace(one, reward=factor * (one.reward or 0) + offset))
    drivers.train(toy.assignment(policy, critic_settings(), tmp_path / "other", roll=roll))
    assert_equal_adapters(tmp_path / "one", tmp_path / "other")


def test_the_unit_of_the_critic_is_that_of_the_first_rewards_that_differ_also_after_a_resume(policy, tmp_path):
    class Killed(Exception):
        pass

    def training(folder, end=99):
        """Rewards that are all the same in the first batch, 0 and 100 in the second, 0 and 1 afterwards."""
        roll = toy.ToyRoll(policy)

        def change(one):
            step = roll.asked[-1][0]
            if step == end:
                raise Killed
            return replace(one, reward=(7.0, 100 * (one.reward or 0), one.reward)[min(step, 2)])

        roll.change = change
        drivers.train(toy.assignment(policy, critic_settings(), folder, roll=roll))

    training(tmp_path / "whole")
    with pytest.raises(Killed):
        training(tmp_path / "cut", end=5)
    last = max((tmp_path / "cut" / "work").glob("step-*/checkpoint.json"))
    scale = json.loads(last.read_text())["progress"]["reward_scale"]
    assert 10 < scale["mean"] < 90 and 30 < scale["deviation"] <= 50
    training(tmp_path / "cut")
    assert_equal_adapters(tmp_path / "whole", tmp_path / "cut")


def test_the_progress_of_an_earlier_version_goes_on_in_units_of_the_reward():
    data = json.loads(json.dumps(asdict(TrainingProgress(steps=3))))
    assert TrainingProgress.from_json(data).reward_scale is None
    del data["reward_scale"]
    scale = TrainingProgress.from_json(data).scale_of(np.array([0.0, 100.0]))
    assert (scale.mean, scale.deviation) == (0, 1)


@pytest.mark.parametrize("iterations", [1, 3])
def test_more_steps_on_a_batch_of_rollouts_do_not_end_a_training_earlier(iterations, policy, tmp_path):
    limits = EarlyStopping(max_kl=None, min_entropy=None, max_length_ratio=None, max_drift=None, window=3)
    roll = toy.ToyRoll(policy)
    roll.change = lambda one: one if len(roll.asked) == 1 else replace(one, reward=1.0)
    settings = short(steps=9 * iterations, early_stopping=limits, options={"iterations": iterations})
    trained = drivers.train(toy.assignment(policy, settings, tmp_path, roll=roll))
    assert "same reward (mean 1) for 3 batches of rollouts" in trained.stopped
    assert len(roll.asked) == 4
