"""Offline training: select from rollouts, train on what was selected, once or a few times."""

from collections import Counter
from dataclasses import replace

import pytest

torch = pytest.importorskip("torch", reason="training needs torch")
pytest.importorskip("peft", reason="adapters are PEFT's")

from sia_runner.errors import TrainingError
from sia_runner.policy import lora
from sia_runner.training import drivers
from sia_runner.wire.adapter_files import read_adapter_origin
from tests.training import toy

CASES = {
    "best_of_n": {"steps": 20, "prompts": 32},
    "dpo": {"steps": 20, "prompts": 32, "kl_coefficient": 0.1, "learning_rate": 5e-4},
}


@pytest.mark.parametrize("algorithm", list(CASES))
def test_it_learns_and_leaves_the_policy_as_it_was(algorithm, policy, tmp_path):
    before, bare = toy.chance(policy.model, toy.HELD_OUT), policy.model
    lines: list[str] = []
    told: list = []
    settings = toy.settings(algorithm, **CASES[algorithm], options={"rounds": 2, "epochs": 20})
    roll = toy.ToyRoll(policy)
    one = toy.assignment(policy, settings, tmp_path, roll=roll, say=lines.append, record=told.append)
    trained = drivers.train(one)

    assert policy.model is bare
    assert toy.chance(bare, toy.HELD_OUT) == before
    learned = lora.load_adapter(bare, tmp_path / "adapter", policy.base_sha256, "served")
    assert toy.chance(learned, toy.HELD_OUT) > before + 0.15
    assert trained.steps == 20
    assert trained.tokens > 0
    assert [len(units) for _, units in roll.asked] == [16, 16]
    assert not set(roll.asked[0][1]) & set(roll.asked[1][1]), "the second round asks other questions"
    assert len(trained.reward) == len(trained.kl) == len(trained.entropy) == 2
    assert trained.reward[1] > trained.reward[0]
    assert trained.kl[0] == pytest.approx(0, abs=1e-6)
    assert trained.kl[1] > 0.01
    assert lines[0].startswith("round 1/2 · reward 0.")
    assert [(figures["step"], figures["reward"]) for figures in told] == list(zip((0, 10), trained.reward, strict=True))
    assert {figures["rollouts"] for figures in told} == {16 * settings.group_size}
    assert read_adapter_origin(tmp_path / "adapter").algorithm == algorithm


def test_supervised_training_is_on_completions_only(policy, tmp_path):
    """The loss of a model that was trained on one completion falls on it, and nothing is learned about the prompt."""
    unit = toy.ROLLED[0]

    def prompt_loss(model):
        ids = torch.tensor([toy.prompt_of(unit)])
        with torch.no_grad():
            return float(model.eval()(input_ids=ids, labels=ids).loss)

    before = prompt_loss(policy.model)
    roll = toy.ToyRoll(policy, change=lambda one: replace(one, reward=float(one.sample == 0)))
    settings = toy.settings("best_of_n", steps=10, prompts=1, learning_rate=5e-4, options={"epochs": 10})
    drivers.train(toy.assignment(policy, settings, tmp_path, roll=roll, units=[unit]))
    learned = lora.load_adapter(policy.model, tmp_path / "adapter", policy.base_sha256, "served")
    assert prompt_loss(learned) > before - 0.1
    best = roll(toy.ROLLED[:1], samples=1, step=0, temperature=1.0)[0].calls[0].completion_ids
    with torch.no_grad():
        logits = learned(input_ids=torch.tensor([toy.prompt_of(unit)])).logits[0, -1]
    assert int(logits.argmax()) == best[0]


def test_the_reference_of_dpo_is_the_base_also_when_training_goes_on_from_an_adapter(policy, tmp_path):
    """With the adapter it started from as reference, the first step's margins would be 0."""
    from sia_runner.training import rounds

    settings = toy.settings("dpo", steps=2, prompts=16, kl_coefficient=0.1)
    drivers.train(toy.assignment(policy, settings, tmp_path / "one"))
    gaps: list[float] = []
    lower = rounds.lowered_pairs

    def look(forward, base, *args):
        gaps.append(max(abs(now - base[row]).max() for row, now in zip(forward.rows, forward.logprobs, strict=True)))
        return lower(forward, base, *args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rounds, "lowered_pairs", look)
        start = tmp_path / "one" / "adapter"
        drivers.train(toy.assignment(policy, settings, tmp_path / "two", start=start))
        drivers.train(toy.assignment(policy, settings, tmp_path / "three"))
    assert gaps[0] > 0.01
    assert gaps[2] < 1e-5


@pytest.mark.parametrize("algorithm", list(CASES))
def test_rewards_that_are_all_equal_are_an_error_that_says_so(algorithm, policy, tmp_path):
    roll = toy.ToyRoll(policy, change=lambda one: replace(one, reward=0.0))
    settings = toy.settings(algorithm, **CASES[algorithm])
    with pytest.raises(TrainingError, match="nothing to select from 256 rollouts"):
        drivers.train(toy.assignment(policy, settings, tmp_path, roll=roll))
    assert not (tmp_path / "adapter").exists()
    assert not hasattr(policy.model, "peft_config")


def test_a_later_round_with_nothing_to_select_ends_training_and_keeps_what_there_is(policy, tmp_path):
    roll = toy.ToyRoll(policy)
    roll.change = lambda one: one if len(roll.asked) == 1 else replace(one, reward=1.0)
    settings = toy.settings("best_of_n", steps=12, prompts=32, options={"rounds": 3, "epochs": 9})
    trained = drivers.train(toy.assignment(policy, settings, tmp_path, roll=roll))
    assert trained.steps == 4
    assert "round 2: nothing to select" in trained.stopped
    assert read_adapter_origin(tmp_path / "adapter").steps == 4


@pytest.mark.parametrize("algorithm", list(CASES))
def test_a_round_trains_on_each_of_its_rows_twice_at_most_and_the_next_one_is_rolled_out(
    algorithm, policy, tmp_path, monkeypatch
):
    """Few questions have a row, and the steps would go over them again and again."""
    from sia_runner.training.rounds import OfflineRounds

    visits: list = []
    batch = OfflineRounds._batch

    def seen(self, step):
        chosen = batch(self, step)
        visits.extend((self._round, row) for row in chosen)
        return chosen

    monkeypatch.setattr(OfflineRounds, "_batch", seen)
    policy.plain = True
    roll = toy.ToyRoll(policy)
    few = {"steps": 60, "prompts": 24, "options": {"rounds": 3, "batch": 3}}
    trained = drivers.train(
        toy.assignment(policy, toy.settings(algorithm, **{**CASES[algorithm], **few}), tmp_path, roll=roll)
    )
    assert [len(units) for _, units in roll.asked] == [8, 8, 8]
    assert {round_ for round_, _ in visits} == {0, 1, 2}
    counts = Counter(visits)
    assert max(counts.values()) == 2 and min(counts.values()) >= 1
    assert trained.steps == len(visits) / 3 < 60
    assert not trained.stopped and len(trained.reward) == 3


def test_failed_rollouts_are_not_wrong_answers(policy, tmp_path):
    roll = toy.ToyRoll(policy, change=lambda one: replace(one, reward=None))
    with pytest.raises(TrainingError, match="none of the 256 rollouts has a reward"):
        drivers.train(toy.assignment(policy, toy.settings("best_of_n", **CASES["best_of_n"]), tmp_path, roll=roll))
