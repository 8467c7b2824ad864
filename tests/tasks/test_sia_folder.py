"""A task folder of the sia-agent package runs unchanged, and its evaluate.py is told no lies."""

import json
import time

import pytest

from sia_runner.config.task import SiaFolderTaskConfig
from sia_runner.records import OutcomeKind
from sia_runner.tasks.protocol import TaskError
from sia_runner.tasks.sia_folder import SiaFolder, finite_numbers
from tests.tasks.making import ends

KIND = OutcomeKind
GOLD = {"1": "secret-x", "2": "secret-y", "3": "secret-z"}

# As the peer's evaluators are: gold found beside the script, results.json written into --gen-dir, gold answers printed.
EVALUATE = """
import argparse, csv, json
from pathlib import Path

TASK_DIR = Path(__file__).parent.parent.parent
gold = json.loads((TASK_DIR / "data/private/answers.json").read_text())
parser = argparse.ArgumentParser()
parser.add_argument("--gen-dir", type=Path, required=True)
folder = parser.parse_args().gen_dir
with (folder / "submission.csv").open() as stream:
    given = {row["id"]: row["label"] for row in csv.DictReader(stream)}
right = sum(given.get(unit) == label for unit, label in gold.items())
print("gold answers:", gold)
results = {"accuracy": right / len(gold), "nested": {"right": right}, "details": list(gold.values())}
(folder / "results.json").write_text(json.dumps(results))
"""


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "peer_task"
    for name in ("data/public", "data/private", "reference"):
        (root / name).mkdir(parents=True)
    (root / "data/public/task.md").write_text("# A task of the peer\n")
    (root / "data/public/questions.csv").write_text("id\n1\n2\n3\n")
    (root / "data/public/evaluate.py").write_text(EVALUATE)
    (root / "data/private/answers.json").write_text(json.dumps(GOLD))
    (root / "reference/reference_target_agent.py").write_text("print('hello')\n")
    return root


def load(folder, metric="accuracy", verify=30.0, **limits):
    return SiaFolder(
        SiaFolderTaskConfig.model_validate(
            {
                "name": "custom",
                "_target_": "sia_runner.tasks.sia_folder.SiaFolder",
                "dir": str(folder),
                "metric": {"name": metric},
                "limits": {"verify": verify, **limits},
            }
        ),
        0,
        folder / "no cache",
    )


def judge(task, tmp_path, unanswered=KIND.NO_ANSWER, **files):
    """Collect and verify what a harness wrote; file names with __ for the dot."""
    work = tmp_path / "work"
    work.mkdir(exist_ok=True)
    for name, text in files.items():
        (work / name.replace("__", ".")).write_text(text)
    task.collect(work, tmp_path / "submission")
    [outcome] = task.verify(tmp_path / "submission", {"all": "all"}, unanswered)
    return outcome


TWO_RIGHT = "id,label\n1,secret-x\n2,secret-y\n3,no\n"


def test_its_own_evaluator_scores(folder, tmp_path):
    task = load(folder)
    outcome = judge(task, tmp_path, submission__csv=TWO_RIGHT)
    assert (outcome.unit, outcome.kind, outcome.value) == ("all", KIND.PARTIAL, pytest.approx(2 / 3))
    assert task.score([outcome]).n == 1


def test_an_evaluator_at_the_top_of_the_folder_is_found_too(folder, tmp_path):
    text = EVALUATE.replace(".parent.parent.parent", ".parent")
    (folder / "data/public/evaluate.py").unlink()
    (folder / "evaluate.py").write_text(text)
    assert judge(load(folder), tmp_path, submission__csv=TWO_RIGHT).value == pytest.approx(2 / 3)


def test_nested_numbers_are_named_with_dots(folder, tmp_path):
    assert judge(load(folder, "nested.right"), tmp_path, submission__csv=TWO_RIGHT).value == 2.0


def test_a_results_file_of_the_harness_is_never_read(folder, tmp_path):
    forged = json.dumps({"accuracy": 1.0})
    outcome = judge(load(folder), tmp_path, submission__csv="id,label\n", results__json=forged)
    assert outcome.value == 0.0
    (folder / "data/public/evaluate.py").write_text("")  # an evaluator that writes nothing
    outcome = judge(load(folder), tmp_path, results__json=forged)
    assert (outcome.kind, outcome.value) == (KIND.VERIFIER_ERROR, 0.0)


def test_the_evaluator_works_on_a_copy(folder, tmp_path):
    judge(load(folder), tmp_path, submission__csv=TWO_RIGHT)
    assert [path.name for path in (tmp_path / "submission").iterdir()] == ["submission.csv"]
    assert sorted(path.name for path in (tmp_path / "work").iterdir()) == ["submission.csv"]


def test_all_regular_files_are_taken_and_no_links(folder, tmp_path):
    work = tmp_path / "work"
    (work / "results").mkdir(parents=True)
    (work / "results" / "run_1.json").write_text("{}")
    (work / "stolen.json").symlink_to(folder / "data/private/answers.json")
    load(folder).collect(work, tmp_path / "taken")
    assert [p.relative_to(tmp_path / "taken").as_posix() for p in (tmp_path / "taken").rglob("*.json")] == [
        "results/run_1.json"
    ]


def test_too_much_is_an_invalid_format(folder, tmp_path):
    outcome = judge(load(folder, submission_mb=1), tmp_path, big__bin="x" * (2 << 20))
    assert (outcome.kind, outcome.value) == (KIND.INVALID_FORMAT, 0.0)
    assert "larger than" in outcome.prediction


def test_nothing_written_takes_the_kind_of_how_the_run_ended(folder, tmp_path):
    assert judge(load(folder), tmp_path, KIND.TIMEOUT).kind is KIND.TIMEOUT


def test_an_evaluator_that_fails_says_so_and_tells_nothing_of_what_it_printed(folder, tmp_path):
    outcome = judge(load(folder), tmp_path, other__txt="no submission.csv")
    assert (outcome.kind, outcome.prediction) == (KIND.VERIFIER_ERROR, "(evaluate.py ended with exit code 1)")


def test_an_evaluator_that_stumbles_over_a_crashed_harness_is_not_blamed(folder, tmp_path):
    assert judge(load(folder), tmp_path, KIND.CRASHED, other__txt="half written").kind is KIND.CRASHED


def test_a_package_that_the_evaluator_lacks_is_named(folder, tmp_path):
    (folder / "data/public/evaluate.py").write_text("import no_such_package_at_all")
    outcome = judge(load(folder), tmp_path, submission__csv=TWO_RIGHT)
    assert "No module named 'no_such_package_at_all'" in outcome.prediction


def test_a_metric_that_is_not_there_is_one_line_with_what_is(folder, tmp_path):
    outcome = judge(load(folder, "f1"), tmp_path, submission__csv=TWO_RIGHT)
    assert outcome.kind is KIND.VERIFIER_ERROR
    assert "has no number 'f1' (task.metric.name); it has: accuracy, nested.right" in outcome.prediction
    assert "secret" not in outcome.prediction


def test_an_evaluator_that_hangs_is_stopped_with_all_it_started(folder, tmp_path):
    (folder / "data/public/evaluate.py").write_text(
        "import subprocess, sys, time\n"
        f"open({str(tmp_path / 'pid')!r}, 'w').write(str(subprocess.Popen(['sleep', '600']).pid))\n"
        "time.sleep(600)\n"
    )
    began = time.monotonic()
    outcome = judge(load(folder, verify=1.0), tmp_path, submission__csv=TWO_RIGHT)
    assert outcome.kind is KIND.VERIFIER_ERROR
    assert "did not end within 1 s" in outcome.prediction
    assert time.monotonic() - began < 15
    pid = int((tmp_path / "pid").read_text())
    assert ends(pid)


def test_an_evaluator_that_prints_without_end_fills_no_memory(folder, tmp_path):
    (folder / "data/public/evaluate.py").write_text("while True: print('gold ' * 100000)")
    assert judge(load(folder, verify=20.0), tmp_path, submission__csv=TWO_RIGHT).kind is KIND.VERIFIER_ERROR


def test_the_evaluator_gets_a_clean_environment(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "a key")
    monkeypatch.setenv("HOME", "own home")
    text = EVALUATE + "\nimport os\nassert 'OPENAI_API_KEY' not in os.environ and 'own' not in os.environ['HOME']\n"
    (folder / "data/public/evaluate.py").write_text(text)
    assert judge(load(folder), tmp_path, submission__csv=TWO_RIGHT).kind is KIND.PARTIAL


def test_the_view_is_the_public_folder_without_evaluator_and_without_ways_out(folder, tmp_path):
    public = folder / "data/public"
    (public / "sub").mkdir()
    (public / "sub/more.txt").write_text("x")
    (public / "out").symlink_to("../private")
    (public / "gold.json").symlink_to("../private/answers.json")
    (public / "loop").symlink_to(".")
    (public / "alias.csv").symlink_to("questions.csv")
    task = load(folder)
    [round_] = task.rounds("select")
    view = task.lay_out(round_, tmp_path / "view", "salt")
    names = {path.relative_to(view.path).as_posix() for path in view.path.rglob("*")}
    assert names == {"task.md", "questions.csv", "alias.csv", "sub", "sub/more.txt"}
    assert not any(path.is_symlink() for path in view.path.rglob("*"))
    assert all("secret" not in path.read_text() for path in view.path.rglob("*") if path.is_file())
    assert oct((view.path / "questions.csv").stat().st_mode & 0o777) == "0o444"


def test_everything_is_val_and_there_is_no_test(folder):
    task = load(folder)
    assert task.has_test is False
    assert dict(task.splits()) == {"train": [], "rollout": [], "dev": [], "val": ["all"], "test": []}
    assert [len(task.rounds(purpose)) for purpose in ("gate", "trial", "select", "test")] == [0, 0, 1, 0]
    assert task.failures([], 5) == []


def test_it_brings_its_own_text_and_reference(folder):
    task = load(folder)
    assert task.description == "# A task of the peer\n"
    assert task.reference == folder / "reference/reference_target_agent.py"
    (folder / "reference/requirements.txt").write_text("x\n")
    assert load(folder).reference == folder / "reference"


def test_its_data_and_evaluator_are_hashed(folder):
    task = load(folder)
    before = task.data_hashes()
    assert set(before) == {
        *("data/public/task.md", "data/public/questions.csv", "data/public/evaluate.py", "data/private/answers.json")
    }
    (folder / "data/private/answers.json").write_text("{}")
    assert task.data_hashes() != before


@pytest.mark.parametrize(
    ("gone", "message"),
    [
        ("data/public/task.md", "data/public/task.md"),
        ("data/public/evaluate.py", "evaluate.py.*data/public"),
    ],
)
def test_a_folder_that_is_no_task_is_refused_in_one_line(folder, gone, message):
    (folder / gone).unlink()
    with pytest.raises(TaskError, match=message):
        load(folder)


def test_only_finite_numbers_are_taken_from_results():
    results = {"a": 1, "b": {"c": 0.5, "d": "text", "e": [1, 2]}, "f": None, "g": float("nan"), "h": True, "i": 10**400}
    assert finite_numbers(results) == {"a": 1.0, "b.c": 0.5, "h": 1.0}
