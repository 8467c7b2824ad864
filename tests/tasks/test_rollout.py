"""The view of a harness while weights are trained: a program that looks answers up must earn nothing."""

import csv
import random

import pytest

from sia_runner.records import OutcomeKind
from sia_runner.tasks.protocol import TaskError
from tests.tasks.making import read_csv, small_task, submit

HALF = {"dev": 0.1, "val": 0.2, "test": 0.2, "rollout": 0.5}
WORDS = ["court", "theft", "fraud", "arson", "house", "phone", "night", "market", "witness", "police", "money", "river"]


def story(number):
    """About 200 letters, unlike any other number's."""
    rng = random.Random(number)
    return " ".join(rng.choice(WORDS) + str(rng.randrange(99)) for _ in range(28))


@pytest.fixture
def task(tmp_path):
    """100 stories, each twice: the second time with other numbers and one more word."""
    rows = [(i, story(i % 100) + (f" again {i}" if i >= 100 else ""), "ab"[i % 2]) for i in range(200)]
    return small_task(tmp_path / "task", rows, splits=HALF)


def test_rollouts_are_asked_the_units_given_in_the_order_of_the_data(task):
    units = task.splits()["rollout"]
    (round_,) = task.rounds("rollout", units=[units[7], units[2], units[5]])
    assert round_.questions == [units[2], units[5], units[7]]


def test_nothing_of_the_rollout_split_and_nothing_of_dev_val_test_is_taught(task):
    (round_,) = task.rounds("rollout", units=task.splits()["rollout"][:3])
    assert round_.train
    assert set(round_.train) < set(task.splits()["train"])


def test_near_duplicates_of_rollout_questions_are_not_taught(task):
    (round_,) = task.rounds("rollout", units=task.splits()["rollout"])
    told = {int(unit) % 100 for unit in task.splits()["rollout"]}
    left_out = set(task.splits()["train"]) - set(round_.train)
    assert left_out == {unit for unit in task.splits()["train"] if int(unit) % 100 in told}
    assert left_out, "the stories of this test stand on both sides"


def test_every_step_teaches_the_same_train(task):
    units = task.splits()["rollout"]
    (one,), (other,) = (task.rounds("rollout", units=part) for part in (units[:4], units[4:9]))
    assert one.train == other.train


def test_a_program_that_looks_answers_up_earns_nothing(task, tmp_path):
    """It answers with the label of the row that shares the most words, if they are most of its words."""
    (round_,) = task.rounds("rollout", units=task.splits()["rollout"])
    view = task.lay_out(round_, tmp_path / "view", "s")
    taught = [(set(row["text"].split()), row["label"]) for row in read_csv(view.path / "train.csv")]
    found = {}
    for row in read_csv(view.path / "questions.csv"):
        words = set(row["text"].split())
        shared, label = max((len(words & known), label) for known, label in taught)
        if shared > len(words) / 2:
            found[row["id"]] = label
    text = "id,label\n" + "".join(f"{name},{label}\n" for name, label in found.items())
    outcomes = task.verify(submit(tmp_path / "s", text), view.keys, OutcomeKind.NO_ANSWER)
    assert sum(outcome.value for outcome in outcomes) == 0


def test_rollout_outcomes_are_judged_like_any_others(task, tmp_path):
    units = task.splits()["rollout"][:6]
    (round_,) = task.rounds("rollout", units=units)
    view = task.lay_out(round_, tmp_path / "view", "s")
    (tmp_path / "s").mkdir()
    with (tmp_path / "s" / "submission.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows([("id", "label"), *((name, "a") for name in view.keys)])
    outcomes = task.verify(tmp_path / "s", view.keys, OutcomeKind.NO_ANSWER)
    assert {o.unit: o.value for o in outcomes} == {unit: float(int(unit) % 2 == 0) for unit in units}


def test_failures_never_show_rollout_answers(task, tmp_path):
    asked = {f"q{n}": unit for n, unit in enumerate(task.splits()["rollout"])}
    outcomes = task.verify(submit(tmp_path / "s", "id,label\n"), asked, OutcomeKind.NO_ANSWER)
    assert task.failures(outcomes, 100) == []


@pytest.mark.parametrize("split", ["train", "dev", "val", "test"])
def test_only_rollout_units_are_asked(task, split):
    stranger = task.splits()[split][0]
    with pytest.raises(TaskError, match=f"split rollout.*'{stranger}'"):
        task.rounds("rollout", units=[task.splits()["rollout"][0], stranger])


@pytest.mark.parametrize("times", [0, 2])
def test_no_unit_and_a_unit_twice_are_mistakes(task, times):
    with pytest.raises(TaskError, match="twice"):
        task.rounds("rollout", units=[task.splits()["rollout"][0]] * times)


@pytest.mark.parametrize(
    "splits",
    [
        {"dev": 0.2, "val": 0.4, "test": 0.4},
        {"dev": 0.1, "val": 0.2, "test": 0.2, "folds": 4},
        {"dev": 0.1, "val": 0.2, "test": 0.2, "rollout": 0.0},
    ],
    ids=["nothing left for train", "folds", "no share"],
)
def test_without_a_rollout_split_there_is_no_weights_lever(tmp_path, splits):
    task = small_task(tmp_path, splits=splits)
    assert not task.splits()["rollout"]
    with pytest.raises(TaskError, match=r"rollout split.*trainer=none") as told:
        task.rounds("rollout", units=["1"])
    assert "\n" not in str(told.value)


def test_where_all_of_train_is_like_rollout_questions_nothing_could_be_taught(tmp_path):
    rows = [(i, f"{story(0)} {i}", "ab"[i % 2]) for i in range(200)]
    task = small_task(tmp_path, rows)
    with pytest.raises(TaskError, match="train.*rollout"):
        task.rounds("rollout", units=task.splits()["rollout"])


def test_a_metric_over_ranks_gives_no_reward_for_one_question(tmp_path):
    task = small_task(tmp_path, metric={"name": "auc", "verifier": "auc", "choices": ["a", "b"]})
    with pytest.raises(TaskError, match="metric.verifier=auc"):
        task.rounds("rollout", units=task.splits()["rollout"][:1])


def test_a_policy_is_warmed_on_train_alone(tmp_path):
    task = small_task(tmp_path)
    expected = [(f"text {unit}", "ab"[int(unit) % 2]) for unit in task.splits()["train"]]
    assert task.dialogues() == expected


def test_other_purposes_compare_no_texts(tmp_path, monkeypatch):
    monkeypatch.setattr("sia_runner.tasks.near_duplicates.near_duplicate_groups", lambda *_: pytest.fail("compared"))
    task = small_task(tmp_path)
    assert [len(task.rounds(purpose)) for purpose in ("gate", "trial", "select", "test")] == [1, 1, 1, 1]
