"""Which units a run may learn from, and which it is asked."""

from collections import Counter

import pytest

from sia_runner.tasks.protocol import TaskError
from sia_runner.tasks.table import TableTask
from tests.tasks.making import small_task, spec, write_csv

SPLITS = ("train", "rollout", "dev", "val", "test")


@pytest.fixture(params=["held out", "own test", "folds", "folds and own test"])
def task(request, tmp_path):
    changes = {"splits": {"dev": 0.15, "val": 0.2, "test": 0.2, "folds": 1}}
    if "folds" in request.param:
        changes["splits"]["folds"] = 4
    if "own test" in request.param:
        changes["splits"]["test"] = 0.0
    return small_task(tmp_path, own_test="own test" in request.param, **changes)


def test_splits_are_disjoint_and_exhaustive(task):
    seen = Counter(unit for name in SPLITS for unit in task.splits()[name])
    assert set(task.splits()) == set(SPLITS)
    assert set(seen.values()) == {1}
    assert len(seen) == 200 + 40 * any(unit.startswith("test:") for unit in seen)


def test_no_round_asks_what_it_teaches(task):
    for purpose in ("gate", "trial", "select", "test"):
        for round_ in task.rounds(purpose):
            assert round_.questions
            assert not set(round_.train) & set(round_.questions)


def test_before_the_end_nothing_of_test_is_taught_or_asked(task):
    test = set(task.splits()["test"])
    for purpose in ("gate", "trial", "select"):
        for round_ in task.rounds(purpose):
            assert not test & {*round_.train, *round_.questions}


def test_select_asks_dev_and_val_each_once(task):
    asked = Counter(unit for round_ in task.rounds("select") for unit in round_.questions)
    assert asked == Counter([*task.splits()["dev"], *task.splits()["val"]])


def test_test_asks_the_test_questions_and_teaches_every_other_label(task):
    (round_,) = task.rounds("test")
    assert list(round_.questions) == list(task.splits()["test"])
    assert set(round_.train) == {u for name in SPLITS if name != "test" for u in task.splits()[name]}


def test_gate_and_trial_ask_dev_only(task):
    dev = set(task.splits()["dev"])
    (gate,), (trial,), (few,) = task.rounds("gate"), task.rounds("trial"), task.rounds("trial", questions=5)
    assert len(gate.questions) == 8
    assert set(gate.questions) <= dev
    assert set(trial.questions) == dev
    assert len(few.questions) == 5
    assert set(few.questions) <= dev


def test_a_trial_never_learns_from_dev(task):
    (round_,) = task.rounds("trial")
    assert not set(round_.train) & set(task.splits()["dev"])


def test_a_smaller_trial_learns_from_a_part_of_a_larger_one(task):
    (small,), (middle,), (full,) = (task.rounds("trial", train_fraction=f) for f in (0.25, 0.5, 1.0))
    assert set(small.train) < set(middle.train) < set(full.train)
    assert len(small.train) == pytest.approx(0.25 * len(full.train), abs=2)


def test_the_gate_learns_from_at_most_so_many_rows(tmp_path):
    (round_,) = small_task(tmp_path, gate={"questions": 3, "train": 7}).rounds("gate")
    assert (len(round_.train), len(round_.questions)) == (7, 3)


def test_without_weights_to_train_the_rollout_part_is_taught_with_train(tmp_path):
    task = small_task(tmp_path)
    (round_,) = task.rounds("select")
    assert set(round_.train) == {*task.splits()["train"], *task.splits()["rollout"]}
    assert len(task.splits()["rollout"]) == pytest.approx(0.25 * len(round_.train), abs=1)


def test_with_folds_each_round_teaches_the_other_folds(tmp_path):
    task = small_task(tmp_path, splits={"dev": 0.1, "val": 0.2, "test": 0.2, "folds": 4})
    rounds, everything = task.rounds("select"), {*task.splits()["dev"], *task.splits()["val"]}
    assert len(rounds) == 4
    for round_ in rounds:
        assert set(round_.train) == everything - set(round_.questions)
        assert set(round_.questions) & set(task.splits()["dev"])
        assert set(round_.questions) & set(task.splits()["val"])


@pytest.mark.parametrize("folds", [1, 4])
def test_the_same_text_is_never_on_both_sides(tmp_path, folds):
    rows = [(i, f"text {i % 60}", "ab"[i % 2]) for i in range(200)]  # each text three or four times
    task = small_task(tmp_path, rows, splits={"dev": 0.15, "val": 0.2, "test": 0.2, "folds": folds})
    place = {str(i): f"text {i % 60}" for i in range(200)}
    for purpose in ("trial", "select", "test"):
        for round_ in task.rounds(purpose):
            assert not {place[u] for u in round_.train} & {place[u] for u in round_.questions}


@pytest.mark.parametrize("folds", [1, 4])
def test_a_group_is_never_on_both_sides(tmp_path, folds):
    rows = [(f"{i // 3:04d}_{i % 3:02d}", f"text {i}", "ab"[i // 3 % 2]) for i in range(240)]
    task = small_task(
        tmp_path,
        rows,
        columns={"grouped_ids": True},
        splits={"dev": 0.15, "val": 0.2, "test": 0.2, "folds": folds},
    )
    for purpose in ("trial", "select", "test"):
        for round_ in task.rounds(purpose):
            assert not {u[:4] for u in round_.train} & {u[:4] for u in round_.questions}


def test_classes_with_one_row_do_no_harm(tmp_path):
    rows = [(i, f"text {i}", "ab"[i % 2] if i < 100 else f"rare {i}") for i in range(130)]
    task = small_task(tmp_path, rows)
    taught = {*task.splits()["train"], *task.splits()["rollout"]}
    assert {str(i) for i in range(100, 130)} <= taught


def test_the_split_seed_and_nothing_else_decides(tmp_path):
    one, same, other = (small_task(tmp_path / str(k), split_seed=s).splits() for k, s in enumerate((0, 0, 1)))
    assert one == same
    assert one != other


def test_too_few_rows_are_refused_with_the_reason(tmp_path):
    task = small_task(tmp_path, [(i, f"t{i}", f"label {i}") for i in range(40)])
    with pytest.raises(TaskError, match=r"dev.*40 .*splits\.stratify=false"):
        task.splits()


def test_without_stratifying_any_answers_will_do(tmp_path):
    rows = [(i, f"t{i}", f"label {i}") for i in range(40)]
    task = small_task(tmp_path, rows, splits={"dev": 0.1, "val": 0.2, "test": 0.2, "stratify": False})
    assert len(task.splits()["val"]) == 8


# --- nothing left for train ---------------------------------------------------------------------------------

ALL_ASKED = {"dev": 0.2, "val": 0.4, "test": 0.4}


def test_shares_that_add_up_to_one_leave_no_train_and_lose_no_question(tmp_path):
    sizes = {name: len(units) for name, units in small_task(tmp_path, splits=ALL_ASKED).splits().items()}
    assert sizes == {"train": 0, "rollout": 0, "dev": 40, "val": 80, "test": 80}


def test_shares_that_add_up_to_one_in_decimals_do_so_in_binary(tmp_path):
    task = small_task(tmp_path, splits={"dev": 0.2, "val": 0.7, "test": 0.1})
    assert 0.2 + 0.7 + 0.1 < 1
    assert not task.splits()["train"]


def test_without_train_nothing_is_taught_before_the_test_and_then_every_other_label(tmp_path):
    task = small_task(tmp_path, splits=ALL_ASKED)
    for purpose in ("gate", "trial", "select"):
        assert [list(round_.train) for round_ in task.rounds(purpose)] == [[]]
    (final,) = task.rounds("test")
    assert set(final.train) == {*task.splits()["dev"], *task.splits()["val"]}


def test_without_train_a_view_has_no_train_file(tmp_path):
    task = small_task(tmp_path / "task", splits=ALL_ASKED)
    (select,), (final,) = task.rounds("select"), task.rounds("test")
    assert not (task.lay_out(select, tmp_path / "select", "s").path / "train.csv").exists()
    assert (task.lay_out(final, tmp_path / "final", "s").path / "train.csv").exists()


def test_without_train_a_test_file_of_the_tasks_own_stays_the_test(tmp_path):
    task = small_task(tmp_path, own_test=True, splits={"dev": 0.4, "val": 0.6})
    assert {name: len(units) for name, units in task.splits().items() if units} == {"dev": 80, "val": 120, "test": 40}


def test_splits_can_be_stratified_by_a_column(tmp_path):
    rows = [(i, f"text {i}", "rare" if i % 10 == 0 else "common", i) for i in range(100)]
    write_csv(tmp_path / "labelled.csv", ("id", "text", "kind", "label"), rows)
    task = TableTask(spec(tmp_path, splits=ALL_ASKED | {"stratify": "kind"}), 0, tmp_path / "cache")
    rare = {name: sum(int(unit) % 10 == 0 for unit in units) for name, units in task.splits().items()}
    assert (rare["dev"], rare["val"], rare["test"]) == (2, 4, 4)


def test_a_column_to_stratify_by_must_be_there(tmp_path):
    with pytest.raises(TaskError, match=r"splits\.stratify=colour.*text"):
        small_task(tmp_path, splits={"dev": 0.1, "val": 0.2, "test": 0.2, "stratify": "colour"}).splits()
