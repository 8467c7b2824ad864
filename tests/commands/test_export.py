"""The command `export`: the best harness runs without us."""

import json
import subprocess
import sys
from importlib.metadata import version

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
