"""The command `verify`: every score can be recomputed, and any edit is found."""

import hashlib
import json
import re
import shutil

from tests.commands.conftest import command
from tests.conftest import ROOT


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


def test_a_run_whose_task_was_moved_holds_with_the_new_folder(run, tmp_path):
    stored, moved = (run / "config.yaml").read_text(), tmp_path / "moved"
    shutil.copytree(ROOT / "tasks" / "smoke", moved)
    edited = re.sub(r"(?m)^  dir: .*$", "  dir: /gone/smoke", stored)
    assert edited != stored
    (run / "config.yaml").write_text(edited)
    assert any("/gone/smoke is missing (task.dir of the run)" in line for line in faults(run))
    code, output = command("verify", run, "--task-dir", moved)
    (only,) = [line for line in output.splitlines() if line.startswith("FAULT")]  # the edit above
    assert code == 1 and only.startswith("FAULT config.yaml")


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
