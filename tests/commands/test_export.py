"""The command `export`: the best harness runs without us."""

import json
import subprocess
import sys
from importlib.metadata import version

from sia_runner.__main__ import main
from sia_runner.commands.export import pinned_requirements
from tests.commands.conftest import command


def test_the_exported_harness_runs_without_us(finished, run, tmp_path):
    code, output = command("export", run, tmp_path / "best")
    assert code == 0, output
    readme = (tmp_path / "best" / "README.md").read_text()
    (line,) = [line.strip() for line in readme.splitlines() if "--dataset_dir" in line]
    as_written = line.replace("venv/bin/python", f"{sys.executable} -I")
    subprocess.run(as_written, shell=True, check=True, cwd=tmp_path / "best")
    answers = (tmp_path / "best" / "OUT" / "submission.csv").read_text().splitlines()
    questions = (tmp_path / "best" / "example" / "questions.csv").read_text().splitlines()
    assert len(answers) == len(questions) > 2
    assert "`questions.csv`" in readme and "`train.csv`" in readme and "calls a model" not in readme
    data, work = tmp_path / "data", tmp_path / "out"
    data.mkdir(), work.mkdir()
    (data / "train.csv").write_text("id,text,label\n1,good thing,positive\n2,bad thing,negative\n")
    (data / "questions.csv").write_text("id,text\n7,good\n")
    harness = [sys.executable, "-I", str(tmp_path / "best" / "target_agent.py")]
    subprocess.run([*harness, "--dataset_dir", str(data), "--working_dir", str(work)], check=True)
    assert (work / "submission.csv").read_text().split() == ["id,label", "7,positive"]
    provenance = json.loads((tmp_path / "best" / "provenance.json").read_text())
    assert provenance["generation"] == 3 and provenance["test"] == finished.summary["best"]["test"]


def test_an_export_never_writes_over_a_folder(run, tmp_path):
    (tmp_path / "best").mkdir()
    code, output = command("export", run, tmp_path / "best")
    assert code == 2 and "exists already" in output


def test_requirements_name_what_the_harness_imports_with_the_measured_versions(tmp_path):
    (tmp_path / "target_agent.py").write_text("import csv, sklearn.svm\nfrom numpy import array\nimport nowhere\n")
    assert pinned_requirements(tmp_path) == [f"numpy=={version('numpy')}", f"scikit-learn=={version('scikit-learn')}"]


def test_every_run_that_was_verified_is_exported_as_atif_with_its_splits(run, finished, tmp_path):
    code, output = command("export", "--atif", run, tmp_path / "atif")
    assert code == 0 and "show them to no proposer" in output, output
    tests = {f"test_{path.name}" for path in (run / "test").iterdir()}
    assert {path.name for path in (tmp_path / "atif").iterdir()} == {"gen_1", "gen_2", "gen_3"} | tests
    rows = [json.loads(line) for line in (tmp_path / "atif" / "gen_3" / "index.jsonl").read_text().splitlines()]
    val = [row["value"] for row in rows if row["split"] == "val"]
    assert sum(val) / len(val) == finished.summary["generations"][2]["val"]["value"]
    assert {row["split"] for row in rows} == {"dev", "val"} and not any(row["files"] for row in rows)


def test_scores_that_were_changed_are_not_exported(run, tmp_path):
    scores = run / "gen_2" / "scores.json"
    scores.write_text(scores.read_text().replace("wrong", "correct", 1))
    code, output = command("export", "--atif", run, tmp_path / "atif")
    assert code == 2 and "was changed since it was written" in output and not (tmp_path / "atif").exists()


def test_logs_of_inspect_need_the_extra(run, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "inspect_ai", None)
    assert main(["export", str(run), str(tmp_path / "logs"), "--inspect"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "sia-runner[inspect]" in line and not (tmp_path / "logs").exists()
