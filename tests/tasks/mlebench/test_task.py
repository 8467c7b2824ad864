"""Competitions from the layout that mlebench prepares: what harnesses see, how they are judged, what is refused."""

import json
import runpy

import pytest
from pydantic import ValidationError

from sia_runner.config.task import COMPETITIONS, UNSUPPORTED_COMPETITIONS
from sia_runner.records import OutcomeKind
from sia_runner.system import bundled_folder
from sia_runner.tasks.mlebench_task import mlebench_package
from sia_runner.tasks.protocol import TaskError
from tests.tasks.making import read_csv, submit
from tests.tasks.mlebench import making

KIND = OutcomeKind


@pytest.fixture(params=making.ALL)
def made(request, tmp_path):
    """(competition, task)"""
    making.ALL[request.param](tmp_path)
    return request.param, making.load(tmp_path, request.param)


def view_of(task, purpose, folder):
    [round_] = task.rounds(purpose)
    return task.lay_out(round_, folder / purpose, "salt")


def perfect(task, view):
    """What an all-knowing harness would write."""
    asked = json.loads((view.path / "competition.json").read_text())
    rows = []
    for name, unit in view.keys.items():
        gold = task._units.answers[unit]
        hot = [int(column == gold) for column in asked["columns"]]
        rows.append([name, *(hot if asked["kind"] == "probabilities" else [gold])])
    header = [asked["id"], *asked["columns"]]
    return "\n".join(",".join(map(str, row)) for row in [header, *rows])


def test_the_private_answers_are_test_and_the_rest_is_cut_from_public(made):
    _, task = made
    splits = task.splits()
    assert all(unit.startswith("test:") for unit in splits["test"])
    assert min(len(splits[name]) for name in ("train", "dev", "val", "test")) > 0
    assert not any(unit.startswith("test:") for name in ("train", "rollout", "dev", "val") for unit in splits[name])


@pytest.mark.parametrize("purpose", ["gate", "select", "test"])
def test_a_view_has_the_competitions_files_and_no_private_answer(made, purpose, tmp_path):
    competition, task = made
    view = view_of(task, purpose, tmp_path)
    names = {path.name for path in view.path.iterdir()}
    pictures = {"file"} if COMPETITIONS[competition].files[0] else set()
    files = {"train.csv", "questions.csv", "test.csv", "sample_submission.csv", "competition.json", "task.md"}
    assert names == files | pictures
    assert f"About {competition}" in (view.path / "task.md").read_text()
    questions, answer = read_csv(view.path / "questions.csv"), COMPETITIONS[competition].answer
    assert len(questions) == len(view.keys) and answer not in questions[0]
    sample = read_csv(view.path / "sample_submission.csv")
    asked = json.loads((view.path / "competition.json").read_text())
    assert [row[asked["id"]] for row in sample] == list(view.keys)
    assert list(sample[0]) == [asked["id"], *asked["columns"]]
    assert len({tuple(list(row.values())[1:]) for row in sample}) == 1


def test_a_perfect_submission_has_the_best_score_and_the_sample_a_worse_one(made, tmp_path):
    _, task = made
    view = view_of(task, "test", tmp_path)
    best, sample = (
        task.score(task.verify(submit(tmp_path / name, text), view.keys, KIND.NO_ANSWER)).value
        for name, text in (
            ("perfect", perfect(task, view)),
            ("sample", (view.path / "sample_submission.csv").read_text()),
        )
    )
    assert best == pytest.approx(1.0 if task.higher_is_better else 0.0, abs=1e-9)
    assert sample < best - 0.1 if task.higher_is_better else sample > best + 0.1


@pytest.mark.parametrize("program", ["reference/target_agent.py", "recipes/boosting.py", "recipes/words.py"])
def test_the_general_programs_answer_every_question_of_every_kind(made, program, tmp_path, monkeypatch):
    """In this process: scikit-learn is imported once."""
    _, task = made
    view = view_of(task, "select", tmp_path)
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.setattr("sys.argv", ["program", "--dataset_dir", str(view.path), "--working_dir", str(work)])
    runpy.run_path(str(bundled_folder("tasks") / "mlebench" / program), run_name="__main__")
    kinds = {outcome.kind for outcome in task.verify(work, view.keys, KIND.CRASHED)}
    assert kinds <= {KIND.CORRECT, KIND.WRONG, KIND.PARTIAL}


def test_pictures_are_in_the_view_under_the_questions_ids(tmp_path):
    making.aptos(tmp_path)
    task = making.load(tmp_path, "aptos2019-blindness-detection")
    view = view_of(task, "test", tmp_path)
    for row in read_csv(view.path / "questions.csv"):
        unit = view.keys[row["id_code"]].removeprefix("test:")
        assert row["file"] == f"file/{row['id_code']}.png"
        assert (view.path / row["file"]).read_bytes().endswith(unit.encode())


def test_of_many_rows_a_seeded_sample_is_used_and_the_view_says_so(tmp_path):
    making.taxi(tmp_path, rows=300)
    task = making.load(tmp_path, "new-york-city-taxi-fare-prediction", max_rows=200)
    splits = task.splits()
    assert sum(len(splits[name]) for name in ("train", "rollout", "dev", "val")) == 200
    assert "`labels.csv` has 300 rows; a seeded sample of 200 of them is used" in task.description
    again = making.load(tmp_path, "new-york-city-taxi-fare-prediction", max_rows=200)
    assert dict(again.splits()) == dict(splits)


def test_columns_that_test_does_not_have_are_left_out_of_training(tmp_path):
    making.pizza(tmp_path)
    task = making.load(tmp_path, "random-acts-of-pizza")
    view = view_of(task, "select", tmp_path)
    [header] = {tuple(row) for row in read_csv(view.path / "train.csv")}
    assert "votes" not in header and "request_text" in header
    assert {row["requester_received_pizza"] for row in read_csv(view.path / "train.csv")} == {"0", "1"}


def test_rows_without_an_answer_are_left_out_and_counted(tmp_path):
    making.spaceship(tmp_path)
    train = tmp_path / "spaceship-titanic/prepared/public/train.csv"
    lines = train.read_text().splitlines()
    lines[5] = lines[5].rpartition(",")[0] + ","
    train.write_text("\n".join(lines))
    task = making.load(tmp_path, "spaceship-titanic")
    assert "1 rows of `train.csv` without an answer are left out" in task.description


def test_spaceship_titanic_has_the_programs_of_our_own_task(tmp_path):
    making.spaceship(tmp_path)
    task = making.load(tmp_path, "spaceship-titanic")
    assert task.folder == bundled_folder("tasks") / "spaceship_titanic"
    assert (task.reference / "target_agent.py").is_file()
    groups = {name: {unit.partition("_")[0] for unit in units} for name, units in task.splits().items()}
    assert not groups["dev"] & groups["val"]


@pytest.mark.parametrize("place", ["spaceship-titanic/data", "prepared", "data", "."])
def test_other_places_of_public_and_private_are_found(tmp_path, place):
    making.spaceship(tmp_path / "made")
    dest = tmp_path / "given" / place
    dest.parent.mkdir(parents=True, exist_ok=True)
    made = tmp_path / "made" / "spaceship-titanic" / "prepared"
    if place == ".":
        dest = tmp_path / "given"
        dest.rmdir() if dest.exists() else None
    made.rename(dest)
    (dest / "public" / "description.md").rename(dest / "public" / "task.md")  # as sia-agent names it
    assert "About spaceship-titanic" in making.load(tmp_path / "given", "spaceship-titanic").description


def test_what_is_not_prepared_is_one_line_that_says_how(tmp_path):
    if mlebench_package():
        pytest.skip("mlebench is installed here: it would be asked to prepare the competition")
    with pytest.raises(TaskError) as refused:
        making.load(tmp_path, "spaceship-titanic")
    assert "mlebench prepare -c spaceship-titanic --data-dir" in str(refused.value)
    assert "Kaggle's credentials" in str(refused.value) and "\n" not in str(refused.value)


@pytest.mark.parametrize("file", ["train.csv", "test.csv", "sample_submission.csv"])
def test_a_layout_with_a_file_missing_is_one_line(tmp_path, file):
    making.spaceship(tmp_path)
    (tmp_path / "spaceship-titanic/prepared/public" / file).unlink()
    with pytest.raises(TaskError, match=file):
        making.load(tmp_path, "spaceship-titanic")


@pytest.mark.parametrize("competition", [*UNSUPPORTED_COMPETITIONS, "titanic"])
def test_competitions_that_do_not_fit_are_refused_with_the_reason(tmp_path, competition):
    with pytest.raises(ValidationError) as refused:
        making.spec(tmp_path, competition)
    assert UNSUPPORTED_COMPETITIONS.get(competition, "make a task of it") in str(refused.value)


def test_every_competition_has_a_metric_and_a_direction(tmp_path):
    for name, one in COMPETITIONS.items():
        metric = making.spec(tmp_path, name).metric
        assert metric.higher_is_better == (one.verifier not in ("rmse", "log_loss"))
