"""What a harness finds in --dataset_dir, and what it cannot learn from it."""

import stat
from itertools import pairwise

import pytest

from sia_runner.tasks.protocol import Fold
from tests.tasks.making import read_csv, small_task


@pytest.fixture
def task(tmp_path):
    (tmp_path / "task.md").write_text("# Example\n\nAnswer a or b.\n")
    (tmp_path / "classes.json").write_text('["a", "b"]')
    data = {"labelled": "labelled.csv", "extra": {"classes.json": "classes.json"}}
    return small_task(tmp_path, data=data, questions_alias="test.csv")


@pytest.fixture
def select(task):
    (round_,) = task.rounds("select")
    return round_


def test_a_view_holds_train_questions_extra_files_and_the_task(task, select, tmp_path):
    view = task.lay_out(select, tmp_path / "view", "salt")
    names = {path.name for path in view.path.iterdir()}
    assert names == {"train.csv", "questions.csv", "test.csv", "classes.json", "task.md"}
    assert (view.path / "test.csv").read_bytes() == (view.path / "questions.csv").read_bytes()


def test_train_has_the_answers_and_questions_have_none(task, select, tmp_path):
    view = task.lay_out(select, tmp_path / "view", "salt")
    train, questions = read_csv(view.path / "train.csv"), read_csv(view.path / "questions.csv")
    assert [row["text"] for row in train] == [f"text {unit}" for unit in select.train]
    assert all(row["label"] == "ab"[int(row["text"].split()[1]) % 2] for row in train)
    assert list(questions[0]) == ["id", "text"]
    assert {view.keys[row["id"]]: row["text"] for row in questions} == {u: f"text {u}" for u in select.questions}


def test_ids_are_unique_in_a_view_and_say_nothing_of_the_unit(task, select, tmp_path):
    view = task.lay_out(select, tmp_path / "view", "salt")
    ids = [row["id"] for name in ("train.csv", "questions.csv") for row in read_csv(view.path / name)]
    assert len(set(ids)) == len(ids)
    assert sorted(ids, key=int) == [str(n) for n in range(len(ids))]


def test_questions_are_shuffled_by_the_salt_and_by_nothing_else(task, select, tmp_path):
    one, same, other = (task.lay_out(select, tmp_path / f"v{n}", salt) for n, salt in enumerate(["x", "x", "y"]))
    assert one.keys == same.keys != other.keys
    for name in ("train.csv", "questions.csv", "task.md"):
        assert (one.path / name).read_bytes() == (same.path / name).read_bytes()
    order = [one.keys[row["id"]] for row in read_csv(one.path / "questions.csv")]
    assert order != sorted(order, key=int)


def test_dev_and_val_questions_are_mixed_without_a_mark(task, select, tmp_path):
    view = task.lay_out(select, tmp_path / "view", "salt")
    dev = set(task.splits()["dev"])
    marks = [view.keys[row["id"]] in dev for row in read_csv(view.path / "questions.csv")]
    assert sum(one != other for one, other in pairwise(marks)) > 5


def test_task_md_is_the_tasks_own_text_and_the_counts_of_this_view(task, select, tmp_path):
    text = (task.lay_out(select, tmp_path / "view", "s").path / "task.md").read_text()
    assert text.startswith(task.description)
    assert f"`train.csv`: {len(select.train)} rows with their answers; columns `id`, `text`, `label`" in text
    assert f"`questions.csv`: {len(select.questions)} questions to answer; columns `id`, `text`" in text
    assert "`submission.csv`: a CSV file in UTF-8 with the columns `id`, `label`" in text
    assert "`classes.json`" in text


def test_every_file_is_read_only_and_readable_for_another_user(task, select, tmp_path):
    view = task.lay_out(select, tmp_path / "view", "salt")
    assert {stat.S_IMODE(path.stat().st_mode) for path in view.path.iterdir()} == {0o444}
    assert stat.S_IMODE(view.path.stat().st_mode) & 0o055 == 0o055


def test_no_file_of_a_view_is_a_link_into_the_data(task, select, tmp_path):
    view = task.lay_out(select, tmp_path / "view", "salt")
    outside = {(s.st_dev, s.st_ino) for s in (p.stat() for p in tmp_path.iterdir() if p.is_file())}
    assert not outside & {(s.st_dev, s.st_ino) for s in (p.lstat() for p in view.path.iterdir())}


def test_a_round_without_training_data_has_no_train_file(task, tmp_path):
    view = task.lay_out(Fold([], task.splits()["dev"]), tmp_path / "view", "salt")
    assert not (view.path / "train.csv").exists()
    assert "train.csv" not in (view.path / "task.md").read_text()


def test_texts_with_commas_quotes_and_line_breaks_come_through(tmp_path):
    texts = ['a "quoted", text', "two\nlines", "crlf\r\nhere", "  spaces  ", "盗窃，数额较大", ""]
    rows = [(i, texts[i % 6] + str(i), "ab"[i % 2]) for i in range(60)]
    task = small_task(tmp_path, rows)
    (round_,) = task.rounds("select")
    view = task.lay_out(round_, tmp_path / "view", "salt")
    found = {view.keys[row["id"]]: row["text"] for row in read_csv(view.path / "questions.csv")}
    assert found == {unit: rows[int(unit)][1] for unit in round_.questions}


def test_grouped_ids_keep_their_form_and_their_groups(tmp_path):
    rows = [(f"{i // 3:04d}_{i % 3 + 1:02d}", f"text {i}", "ab"[i // 3 % 2]) for i in range(240)]
    task = small_task(tmp_path, rows, columns={"grouped_ids": True})
    (round_,) = task.rounds("select")
    view = task.lay_out(round_, tmp_path / "view", "salt")
    text_of = {text: unit for unit, text, _ in rows}
    new = {
        text_of[row["text"]]: row["id"] for name in ("train.csv", "questions.csv") for row in read_csv(view.path / name)
    }
    pairs = {(unit[:4], renamed[:4]) for unit, renamed in new.items()}
    assert len(pairs) == len({old for old, _ in pairs}) == len({now for _, now in pairs})
    assert all(unit[4:] == renamed[4:] for unit, renamed in new.items())
    assert sum(old == now for old, now in pairs) < 5
