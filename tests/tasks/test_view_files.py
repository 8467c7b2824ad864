"""Questions and answers that are files, and submissions that are folders: what a view shows, what a verifier gets."""

import os
from pathlib import Path

import pytest
from pydantic import ValidationError

from sia_runner.records import OutcomeKind
from sia_runner.tasks.protocol import Fold, TaskError
from sia_runner.tasks.table import TableTask
from tests.tasks.making import read_csv, spec, write_csv

KIND = OutcomeKind
FILES = {"answer": "gold", "files": ["picture", "gold"]}
METRIC = {"name": "share", "verifier": "python"}
ALL_ASKED = {"dev": 0.3, "val": 0.4, "test": 0.3, "stratify": False}
VERIFIER = """
from pathlib import Path
from sia_runner.records import Outcome, OutcomeKind

def verify(submission, answers, questions):
    for unit, gold in answers.items():
        picture = questions[unit]["picture.view"]
        assert Path(questions[unit]["picture"]).read_text().startswith("picture")
        given = submission / "out" / f"{Path(picture).stem}.txt"
        if given.is_file():
            right = given.read_text() == Path(gold).read_text()
            yield Outcome(unit, OutcomeKind.CORRECT if right else OutcomeKind.WRONG, float(right), picture)
"""


def made(folder, rows, **changes):
    folder.mkdir(parents=True, exist_ok=True)
    write_csv(folder / "labelled.csv", ("id", "hint", "picture", "gold"), rows)
    (folder / "verifier.py").write_text(VERIFIER)
    settings = {"columns": FILES, "metric": METRIC, "splits": ALL_ASKED, "submission": "out/"} | changes
    return TableTask(spec(folder, **settings), 0, folder / "cache")


@pytest.fixture
def rows(tmp_path):
    """Twenty pictures with answers of their own."""
    found = []
    for number in range(20):
        for kind in ("pictures", "golds"):
            (tmp_path / "t" / kind).mkdir(parents=True, exist_ok=True)
            (tmp_path / "t" / kind / f"secret_name_{number}.txt").write_text(f"{kind[:-1]} {number}")
        names = [f"{kind}/secret_name_{number}.txt" for kind in ("pictures", "golds")]
        found.append((number, f"hint {number}", *names))
    return found


@pytest.fixture
def task(tmp_path, rows):
    return made(tmp_path / "t", rows)


def work_with(folder, texts):
    (folder / "out").mkdir(parents=True)
    for name, text in texts.items():
        (folder / "out" / name).write_text(text)
    return folder


def test_a_view_holds_the_files_of_its_questions_under_names_that_tell_nothing(task, tmp_path):
    view = task.lay_out(task.rounds("select")[0], tmp_path / "view", "salt")
    for row in read_csv(view.path / "questions.csv"):
        assert row["picture"] == f"picture/{row['id']}.txt"
        assert (view.path / row["picture"]).read_text() == f"picture {view.keys[row['id']]}"
        assert not (view.path / row["picture"]).stat().st_mode & 0o222
    everything = [path.relative_to(view.path).as_posix() for path in view.path.rglob("*")]
    assert not any("secret" in name or "gold" in name for name in everything)
    assert "secret" not in (view.path / "questions.csv").read_text() + (view.path / "task.md").read_text()


def test_answers_are_shown_with_what_may_be_learned_from_and_no_other(task, tmp_path):
    view = task.lay_out(task.rounds("test")[0], tmp_path / "view", "salt")
    taught = read_csv(view.path / "train.csv")
    assert {(view.path / row["gold"]).read_text() for row in taught} == {
        f"gold {unit}" for split in ("dev", "val") for unit in task.splits()[split]
    }
    assert len(list((view.path / "gold").iterdir())) == len(taught)


def test_a_file_of_several_rows_is_laid_out_once_and_named_alike_when_it_is_judged(tmp_path, rows):
    shared = [(number, hint, "pictures/secret_name_0.txt", gold) for number, hint, _, gold in rows]
    task = made(tmp_path / "t", shared)
    view = task.lay_out(task.rounds("select")[0], tmp_path / "view", "salt")
    (only,) = {row["picture"] for row in read_csv(view.path / "questions.csv")}
    assert [path.name for path in (view.path / "picture").iterdir()] == [Path(only).name]
    backwards = dict(reversed(view.keys.items()))  # as it may come back from a journal
    work = work_with(tmp_path / "work", {f"{Path(only).stem}.txt": "a guess"})
    task.collect(work, tmp_path / "kept")
    assert {o.prediction for o in task.verify(tmp_path / "kept", backwards, KIND.NO_ANSWER)} == {only}


def test_one_answer_in_train_and_among_the_questions_is_refused(tmp_path, rows):
    shared = [(number, hint, picture, "golds/secret_name_0.txt") for number, hint, picture, _ in rows]
    task = made(tmp_path / "t", shared)
    with pytest.raises(TaskError, match="train"):
        task.lay_out(Fold(["1"], ["2"]), tmp_path / "view", "salt")


def test_each_question_is_judged_by_its_own_file_and_the_folder_is_all_that_is_taken(task, tmp_path):
    view = task.lay_out(task.rounds("select")[0], tmp_path / "view", "salt")
    units = dict(view.keys)
    left, wrong, *right = units
    texts = {f"{key}.txt": f"gold {units[key]}" for key in right} | {f"{wrong}.txt": "?", "other.txt": "?"}
    work = work_with(tmp_path / "work", texts)
    (work / "results.json").write_text("{}")
    task.collect(work, tmp_path / "kept")
    assert {path.name for path in (tmp_path / "kept").iterdir()} == {"out"}
    found = {o.unit: o.kind for o in task.verify(tmp_path / "kept", view.keys, KIND.NO_ANSWER)}
    assert found == {
        units[key]: KIND.NO_ANSWER if key == left else KIND.WRONG if key == wrong else KIND.CORRECT for key in units
    }


def test_failures_do_not_name_the_file_of_the_answer(task, tmp_path):
    view = task.lay_out(task.rounds("trial")[0], tmp_path / "view", "salt")
    task.collect(work_with(tmp_path / "work", {}), tmp_path / "kept")
    failures = task.failures(task.verify(tmp_path / "kept", view.keys, KIND.NO_ANSWER), 10)
    assert failures
    assert {failure["gold"] for failure in failures} == {"(a file)"}


@pytest.mark.parametrize("link", ["folder", "file"])
def test_nothing_is_taken_through_a_link(task, tmp_path, link):
    host = tmp_path / "host"
    host.mkdir()
    (host / "secret.txt").write_text("of the host")
    work = tmp_path / "work"
    work.mkdir()
    if link == "folder":
        (work / "out").symlink_to(host)
    else:
        (work / "out").mkdir()
        (work / "out" / "1.txt").symlink_to(host / "secret.txt")
        os.link(host / "secret.txt", work / "out" / "2.txt")
    task.collect(work, tmp_path / "kept")
    assert [path for path in (tmp_path / "kept").rglob("*") if path.is_file()] == []


@pytest.mark.parametrize("much", ["files", "bytes"])
def test_a_folder_beyond_its_bounds_is_refused_as_a_whole(tmp_path, rows, much):
    task = made(tmp_path / "t", rows, limits={"submission_mb": 1, "submission_files": 5})
    texts = {f"{n}.txt": "" for n in range(6)} if much == "files" else {f"{n}.txt": "x" * 600_000 for n in range(2)}
    task.collect(work_with(tmp_path / "work", texts), tmp_path / "kept")
    view = task.lay_out(task.rounds("select")[0], tmp_path / "view", "salt")
    assert {o.kind for o in task.verify(tmp_path / "kept", view.keys, KIND.NO_ANSWER)} == {KIND.INVALID_FORMAT}


def test_the_generated_text_says_what_goes_where(task, tmp_path):
    text = (task.lay_out(task.rounds("select")[0], tmp_path / "view", "salt").path / "task.md").read_text()
    assert "`out/`: a folder with at most 1,000 files, links not among them, at most 64 MiB in all" in text
    assert "`picture/`: the files that the column `picture` names" in text
    assert "`gold" not in text


def test_data_hashes_cover_the_files(task, tmp_path):
    before = task.data_hashes()
    assert len(before) == 41
    (tmp_path / "t" / "golds" / "secret_name_3.txt").write_text("other")
    after = task.data_hashes()
    assert {name for name in before if before[name] != after[name]} == {"golds/secret_name_3.txt"}


@pytest.mark.parametrize("path", ["", "../outside.txt", "/etc/hostname", "pictures", "pictures/none.txt"])
def test_a_cell_that_is_no_file_inside_the_data_is_told_at_once(tmp_path, rows, path):
    (tmp_path / "outside.txt").write_text("x")
    task = made(tmp_path / "t", [(*rows[0][:2], path, rows[0][3]), *rows[1:]])
    with pytest.raises(TaskError, match=r"columns\.files"):
        task.splits()
        task.prepare(lambda _: None)


def test_a_column_of_files_that_is_not_there_is_named(tmp_path, rows):
    task = made(tmp_path / "t", rows, columns=FILES | {"files": ["pictures"]})
    with pytest.raises(TaskError, match="'pictures'.*hint, picture, gold"):
        task.prepare(lambda _: None)


@pytest.mark.parametrize(
    "changes",
    [
        {"columns": {"answer": "label", "files": ["label"]}},  # judged by a verifier that reads a table
        {"columns": FILES, "metric": METRIC},  # stratified by what is different for each row
        {"submission": "out/"},
        {"submission": "program.py"},
        {"data": {"labelled": "labelled.csv", "local": "somewhere"}},  # nobody reads it
        {"data": {"labelled": "labelled.csv", "arguments": {"seed": 1}}},
    ],
)
def test_what_cannot_work_is_refused_in_the_configuration(tmp_path, changes):
    with pytest.raises(ValidationError):
        spec(tmp_path, **changes)
