"""After a run: every score can be recomputed, any edit is found, and the best harness runs without us."""

import json
import subprocess
import sys

import pytest

from tests.harnesses import MAJORITY, RAREST, WORDS


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    from tests.conftest import Cli

    cli = Cli(tmp_path_factory.mktemp("finished"))
    done = cli("task=smoke", *cli.replay(MAJORITY, RAREST, WORDS))
    assert done.returncode == 0, done.stdout + done.stderr
    return cli


@pytest.fixture
def run(finished, tmp_path):
    """A copy to tamper with."""
    subprocess.run(["cp", "-a", str(finished.run), str(tmp_path / "run")], check=True)
    return tmp_path / "run"


def command(module, *args):
    done = subprocess.run(
        [sys.executable, "-m", "sia_runner", module, *map(str, args)], capture_output=True, text=True, check=False
    )
    return done.returncode, done.stdout + done.stderr


def faults(run):
    code, output = command("verify", run)
    assert code in (1, 2), output
    return [line for line in output.splitlines() if line.startswith(("FAULT", "refused"))]


def edit(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def test_an_untouched_run_holds(run):
    code, output = command("verify", run)
    assert code == 0 and "every score was recomputed and holds" in output
    assert output.count("verdict") == 3 and output.count("test of") == 4


def test_a_changed_answer_is_found(run):
    edit(run / "gen_3" / "submission" / "submission.csv", "positive", "negative")
    assert faults(run) == ["FAULT gen_3: submission: changed since it was copied out"]


def test_a_changed_harness_is_found(run):
    edit(run / "gen_1" / "harness" / "target_agent.py", "import", "import  ")
    assert faults(run) == ["FAULT gen_1: harness: changed since it was built"]


def test_a_changed_score_is_found(run):
    edit(run / "gen_2" / "scores.json", '"wrong"', '"correct"')
    assert faults(run) == ["FAULT gen_2: scores.json: changed since it was written"]


def test_a_changed_journal_is_found_at_its_line(run):
    edit(run / "journal.jsonl", '"status": "rejected"', '"status": "accepted"')
    (line,) = faults(run)
    assert "journal.jsonl line" in line and "edited" in line


def test_a_changed_summary_config_or_lock_is_found(run):
    edit(run / "summary.json", '"rejected"', '"accepted"')
    edit(run / "config.yaml", "seed: 0", "seed: 1")
    edit(run / "lock.json", '"python"', '"python "')
    named = {line.split(":")[0] for line in faults(run)}
    assert {"FAULT summary.json", "FAULT config.yaml", "FAULT lock.json"} <= named


def test_forged_ids_are_found_even_when_the_whole_chain_was_written_anew(run):
    """Whoever rewrites the journal as a whole can forge hashes, but not the ids that the seed and the data give."""
    import hashlib

    keys = run / "gen_3" / "keys.json"
    mapping = json.loads(keys.read_text())
    names = list(mapping)
    mapping[names[0]], mapping[names[1]] = mapping[names[1]], mapping[names[0]]
    keys.write_text(json.dumps(mapping))
    forged, before = [], "0" * 64
    for line in (run / "journal.jsonl").read_text().splitlines():
        entry = json.loads(line)
        if entry.get("step") == "gen_3/run" and entry["event"] == "done":
            entry["result"]["runs"][0]["keys_sha256"] = hashlib.sha256(keys.read_bytes()).hexdigest()
        entry["prev"] = before
        forged.append(json.dumps(entry))
        before = hashlib.sha256(forged[-1].encode()).hexdigest()
    (run / "journal.jsonl").write_text("\n".join(forged) + "\n")
    assert "FAULT gen_3: submission: keys.json is not what the seed gives" in faults(run)


def test_verifying_changes_nothing(run):
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    command("verify", run)
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == before


def test_no_run_there_is_one_clear_line(tmp_path):
    assert command("verify", tmp_path)[0] == 2 and "no run there" in command("verify", tmp_path)[1]


def test_the_exported_harness_runs_without_us(finished, run, tmp_path):
    code, output = command("export", run, tmp_path / "best")
    assert code == 0, output
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
    from importlib.metadata import version

    from sia_runner.commands.export import pinned_requirements

    (tmp_path / "target_agent.py").write_text("import csv, sklearn.svm\nfrom numpy import array\nimport nowhere\n")
    assert pinned_requirements(tmp_path) == [f"numpy=={version('numpy')}", f"scikit-learn=={version('scikit-learn')}"]
