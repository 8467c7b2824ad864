"""mlebench's own grader and the leaderboard, asked about a test submission.

The package is not on the index: where it is not installed, a stand-in with its interface (registry, grader, read_csv)
shows that it would be asked the right thing, in a process of its own.
"""

import sys

import pytest

from sia_runner.records import OutcomeKind
from sia_runner.tasks.mlebench_task import Mlebench, mlebench_package
from sia_runner.tasks.protocol import TaskError
from tests.conftest import ROOT
from tests.tasks.making import submit
from tests.tasks.mlebench import making
from tests.tasks.mlebench.test_task import perfect, view_of

REGISTRY = """
import logging
from pathlib import Path
from types import SimpleNamespace

class Registry:
    def __init__(self, folder=None): self.folder = folder
    def set_data_dir(self, folder): return Registry(folder)
    def get_competition(self, name):
        answers = Path(self.folder, name, "prepared", "private", "test.csv")
        return SimpleNamespace(grader=grade, answers=answers)

def grade(submission, answers):
    ids = {row["PassengerId"]: row["Transported"] for row in submission}
    if ids.keys() != {row["PassengerId"] for row in answers}:
        logging.warning("Invalid submission: ids do not match")  # as mlebench's Grader does
        return None
    return round(sum(ids[row["PassengerId"]] == row["Transported"] for row in answers) / len(answers), 5)

registry = Registry()
"""
UTILS = """
import csv
def read_csv(path): return list(csv.DictReader(open(path)))
load_answers = read_csv
"""


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """A package mlebench with a leaderboard of 200 teams, .995 down to 0."""
    package = tmp_path / "site" / "mlebench"
    competition = package / "competitions" / "spaceship-titanic"
    competition.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "registry.py").write_text(REGISTRY)
    (package / "utils.py").write_text(UTILS)
    scores = "".join(f"{k / 200}\n" for k in range(199, -1, -1))
    (competition / "leaderboard.csv").write_text(f"score\n{scores}")
    monkeypatch.syspath_prepend(package.parent)
    for name in [name for name in sys.modules if name.partition(".")[0] == "mlebench"]:
        monkeypatch.delitem(sys.modules, name)  # the real one, where it is installed
    return package


CLI = """
import sys
def main():
    sys.path.insert(0, {root!r})
    from pathlib import Path
    from tests.tasks.mlebench import making
    assert sys.argv[1:4] == ["prepare", "-c", "leaf-classification"] and sys.stdin.read() == ""
    making.leaf(Path(sys.argv[5]))
"""


def test_what_is_not_prepared_the_installed_package_prepares_when_asked_to(stand_in, tmp_path, monkeypatch):
    (stand_in / "cli.py").write_text(CLI.format(root=str(ROOT)))
    monkeypatch.setenv("PYTHONPATH", str(stand_in.parent))
    task = Mlebench(making.spec(tmp_path / "data", "leaf-classification"), 0, tmp_path / "cache")
    with pytest.raises(TaskError, match="python -m"):
        _ = task.description  # as a run would begin
    said = []
    task.prepare(said.append)
    assert "downloads and prepares leaf-classification" in said[0]
    assert len(task.splits()["test"]) == 20
    view = view_of(task, "test", tmp_path)
    assert "`Acer_0`, `Acer_1`, `Acer_2`, `Acer_3`" in (view.path / "task.md").read_text()


def test_a_package_that_cannot_prepare_is_one_line(stand_in, tmp_path, monkeypatch):
    (stand_in / "cli.py").write_text("def main(): raise PermissionError('Kaggle authentication failed!')")
    monkeypatch.setenv("PYTHONPATH", str(stand_in.parent))
    with pytest.raises(TaskError) as refused:
        making.load(tmp_path / "data", "leaf-classification")
    assert "PermissionError: Kaggle authentication failed!; it takes Kaggle's credentials" in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.fixture
def asked(tmp_path):
    """(task, view, a perfect submission), test questions of spaceship-titanic"""
    making.spaceship(tmp_path)
    task = making.load(tmp_path, "spaceship-titanic")
    view = view_of(task, "test", tmp_path)
    return task, view, perfect(task, view)


def official_grade(task, view, tmp_path, text):
    folder = submit(tmp_path / "given", text)
    return task.official_grade(folder, view.keys, task.score(task.verify(folder, view.keys, OutcomeKind.NO_ANSWER)))


def test_its_grader_gets_the_competitions_own_ids_and_its_leaderboard_gives_the_medal(stand_in, asked, tmp_path):
    task, view, text = asked
    found = official_grade(task, view, tmp_path, text)
    assert (found["graded_by"], found["score"], found["medal"]) == ("mlebench", 1.0, "gold")
    assert found["teams"] == 200 and found["thresholds"]["gold"] == pytest.approx(0.95)
    wrong = text.replace("True", "?").replace("False", "True").replace("?", "False")
    assert official_grade(task, view, tmp_path, wrong)["medal"] is None


def test_a_row_that_is_missing_leaves_no_official_score(stand_in, asked, tmp_path):
    task, view, text = asked
    found = official_grade(task, view, tmp_path, text.rpartition("\n")[0])
    assert found["score"] is None and "medal" not in found
    assert "invalid" in found["note"] and "ids do not match" in found["note"]


def test_a_grader_that_fails_is_told_and_ours_stands_in(stand_in, asked, tmp_path):
    task, view, text = asked
    (stand_in / "registry.py").write_text("raise ImportError('no appdirs')")
    found = official_grade(task, view, tmp_path, text)
    assert (found["graded_by"], found["score"]) == ("sia_runner", 1.0)
    assert "ImportError: no appdirs" in found["note"]


def test_without_the_package_our_metric_and_a_leaderboard_beside_the_data_count(asked, tmp_path):
    if mlebench_package():
        pytest.skip("mlebench is installed here")
    task, view, text = asked
    assert "medal" not in official_grade(task, view, tmp_path, text)
    (tmp_path / "spaceship-titanic" / "leaderboard.csv").write_text("score\n0.9\n0.8\n")
    found = official_grade(task, view, tmp_path, text)
    assert (found["graded_by"], found["score"], found["medal"]) == ("sia_runner", 1.0, "gold")


@pytest.mark.parametrize("competition", [name for name in making.ALL if name != "leaf-classification"])
def test_the_real_grader_agrees_with_our_metric(competition, tmp_path):
    """But for leaves: its grader knows 99 species by name, our small folder has four of its own."""
    pytest.importorskip(
        "mlebench.registry",
        reason="NOT COMPARED: needs mlebench (pip install git+https://github.com/openai/mle-bench)",
    )
    making.ALL[competition](tmp_path)
    task = making.load(tmp_path, competition)
    view = view_of(task, "test", tmp_path)
    sample = (view.path / "sample_submission.csv").read_text()
    folder = submit(tmp_path / "given", sample)
    score = task.score(task.verify(folder, view.keys, OutcomeKind.NO_ANSWER))
    found = task.official_grade(folder, view.keys, score)
    assert found["graded_by"] == "mlebench", found
    assert found["score"] == pytest.approx(score.value, abs=6e-6)
