"""Trainings of the toy that really collapse, each in its own way, end early; what is kept is from before the damage."""

import math
from dataclasses import replace

import pytest

torch = pytest.importorskip("torch", reason="training needs torch")
pytest.importorskip("peft", reason="adapters are PEFT's")

from sia_runner.config.training import EarlyStopping
from sia_runner.training import drivers
from sia_runner.wire.adapter_files import WEIGHTS_FILE, read_adapter_origin
from tests.training import toy

NONE = {"max_kl": None, "min_entropy": None, "max_uniform_groups": None, "max_length_ratio": None, "max_drift": None}


def wild(rate=3e-3, **limits):
    """A high rate, watched for one thing only."""
    watched = EarlyStopping(**{**NONE, "window": 3, **limits})
    size = {"steps": 60, "prompts_per_step": 4, "group_size": 8, "max_length": 24}
    return toy.settings("grpo", **size, learning_rate=rate, checkpoint_every=2, early_stopping=watched)


def kept_weights(folder):
    from safetensors.torch import load_file

    return load_file(folder / "adapter" / WEIGHTS_FILE)


def ended_there(policy, settings, steps, folder, **changes):
    """The weights of the same training, ended at `steps` and not watched."""
    calm = settings.model_copy(
        update={"steps": steps, "early_stopping": EarlyStopping(**NONE, window=settings.early_stopping.window)}
    )
    drivers.train(toy.assignment(policy, calm, folder, **changes))
    return kept_weights(folder)


def goes_back(policy, settings, folder, **changes):
    """Train; the result has to be the last checkpoint that no window condemns. Returns how it went."""
    lines: list[str] = []
    trained = drivers.train(toy.assignment(policy, settings, folder, say=lines.append, **changes))
    assert trained.steps < settings.steps
    assert lines[-1] == f"stopped early: {trained.stopped}"
    kept = read_adapter_origin(folder / "adapter").steps
    assert trained.stopped.endswith(f"; the adapter is that of step {kept}")
    assert 0 < kept < trained.steps - settings.early_stopping.window
    assert kept % settings.checkpoint_every == 0
    there = ended_there(policy, settings, kept, folder / "calm", **changes)
    assert all(torch.equal(there[name], value) for name, value in kept_weights(folder).items())
    return trained


def test_a_policy_that_leaves_the_base(policy, tmp_path):
    trained = goes_back(policy, wild(max_kl=1.0), tmp_path)
    assert "KL to the base" in trained.stopped
    assert min(trained.kl[-3:]) >= 1.0 > trained.kl[-4]


def test_a_policy_that_loses_its_entropy(policy, tmp_path):
    trained = goes_back(policy, wild(min_entropy=1.1), tmp_path)
    assert "entropy" in trained.stopped
    assert max(trained.entropy[-3:]) <= 1.1 < trained.entropy[-4]


def test_completions_that_grow_without_bound(policy, tmp_path):
    """The verifier rewards length, as a verifier does that counts points."""
    roll = toy.ToyRoll(policy, limit=12)
    roll.change = lambda one: replace(one, reward=float(len(one.calls[0].completion_ids)))
    trained = goes_back(policy, wild(1e-3, max_length_ratio=2.5), tmp_path, roll=roll)
    assert "tokens against" in trained.stopped


def test_nothing_left_to_learn_ends_the_training_and_keeps_its_last_step(policy, tmp_path):
    """No damage: nothing is taken back."""
    roll = toy.ToyRoll(policy)
    roll.change = lambda one: one if len(roll.asked) <= 4 else replace(one, reward=1.0)
    trained = drivers.train(toy.assignment(policy, wild(max_uniform_groups=1.0), tmp_path, roll=roll))
    assert trained.steps == 4 + 3
    assert "gave all their samples the same reward (mean 1) for 3 batches of rollouts" in trained.stopped
    assert read_adapter_origin(tmp_path / "adapter").steps == trained.steps


def test_the_kl_is_measured_now_and_then_where_it_is_only_watched(policy, tmp_path):
    """Two measurements fall into each window, and the last batch is measured for the adapter's record; with a weight
    in the loss every batch is."""
    from sia_runner.training.loop import OnlineLoop

    asked: list[int] = []
    measured = OnlineLoop._measured

    def seen(self, trajectories):
        rollouts = measured(self, trajectories)
        if not math.isnan(rollouts.kl):
            asked.append(self._state.progress.steps)
        return rollouts

    settings = toy.settings(
        "grpo", steps=11, prompts_per_step=2, group_size=4, early_stopping=EarlyStopping(**NONE, window=5)
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(OnlineLoop, "_measured", seen)
        trained = drivers.train(toy.assignment(policy, settings, tmp_path / "watched"))
        assert asked == [0, 4, 8, 10]
        assert trained.kl[1] == trained.kl[0]
        assert trained.kl[4] == trained.kl[7] != trained.kl[8]
        asked.clear()
        weighted = settings.model_copy(update={"kl_coefficient": 0.1, "steps": 3})
        drivers.train(toy.assignment(policy, weighted, tmp_path / "weighted"))
        assert asked == [0, 1, 2]
