"""The four task folders of the sia-agent wheel, unchanged, through task=custom: they run, or say in a line why not."""

import json

import pytest

from tests.tasks.wheel import wheel_folder

# Harnesses that know nothing: what matters is that the folder's own files and evaluate.py work as they are.
HEAD = """
import argparse, csv, json, pathlib
parser = argparse.ArgumentParser()
parser.add_argument("--dataset_dir", type=pathlib.Path), parser.add_argument("--working_dir", type=pathlib.Path)
args = parser.parse_args()
"""
LAWBENCH = """
rows = list(csv.DictReader((args.dataset_dir / "test.csv").open(encoding="utf-8")))
charge = json.loads((args.dataset_dir / "classes.json").read_text(encoding="utf-8"))[0]
with (args.working_dir / "submission.csv").open("w", encoding="utf-8") as out:
    csv.writer(out).writerows([("id", "label"), *((row["id"], charge) for row in rows)])
"""
CHESS = """
asked = json.loads((args.dataset_dir / "chess_hard.json").read_text())
(args.working_dir / "responses.json").write_text(json.dumps(
    [{"question_id": one["question_id"], "solution": 100} for one in asked]))
"""
GPQA = """
asked = json.loads((args.dataset_dir / "diamond_questions.json").read_text())
details = [{"question_id": one["id"], "model_answer": "ABCD"[k % 4]} for k, one in enumerate(asked)]
(args.working_dir / "results").mkdir()
(args.working_dir / "results" / "submission.json").write_text(json.dumps({"details": details}))
"""
RUNS = {
    "lawbench": (LAWBENCH, "accuracy", (0.0, 0.05)),
    "longcot-chess": (CHESS, "summary.accuracy", (0.0, 50.0)),  # its evaluator counts in percent
    "gpqa": (GPQA, "accuracy", (0.15, 0.4)),
}
NEEDS = {"lawbench": "TINKER_API_KEY", "longcot-chess": "GEMINI_API_KEY", "gpqa": "TINKER_API_KEY"}


@pytest.fixture
def tasks(tmp_path):
    return wheel_folder(tmp_path) / "sia" / "tasks"


@pytest.mark.parametrize("name", RUNS)
def test_its_data_and_evaluator_score_a_harness_as_they_are(cli, tasks, name):
    pytest.importorskip("pandas", reason="evaluate.py of lawbench imports it") if name == "lawbench" else None
    body, metric, (low, high) = RUNS[name]
    task = ["task=custom", f"task.dir={tasks / name}", f"task.metric.name={metric}"]
    done = cli(*task, *cli.replay(HEAD + body))
    assert done.returncode == 0, done.stdout + done.stderr
    assert low <= cli.summary["best"]["val"]["value"] <= high
    assert cli.summary["selected_on_test"] is True
    if name == "gpqa":  # its authors ask that no question be shown anywhere
        [question, *_] = json.loads((tasks / "gpqa/data/private/diamond_questions.json").read_text())
        assert question["Question"][:60] not in done.stdout + (cli.run / "context.md").read_text()


@pytest.mark.parametrize("name", NEEDS)
def test_its_reference_needs_another_cloud_and_ends_in_one_clear_line(cli, tasks, name):
    done = cli("task=custom", f"task.dir={tasks / name}", "max_gen=2")
    assert done.returncode == 3, done.stdout + done.stderr
    [generation] = cli.summary["generations"]
    assert f"needs {NEEDS[name]}: no key of another cloud is in the sandbox" in generation["reason"]
    assert "\n" not in generation["reason"] and "Traceback" not in done.stdout + done.stderr


def test_spaceship_titanic_has_no_evaluator_and_the_line_says_what_runs_it(cli, tasks):
    folder = tasks / "spaceship-titanic"
    done = cli("task=custom", f"task.dir={folder}")
    assert done.returncode == 2
    [line] = done.stderr.strip().splitlines()
    assert "no evaluate.py" in line
    assert f"task=mlebench task.competition=spaceship-titanic task.prepared={folder}" in line
