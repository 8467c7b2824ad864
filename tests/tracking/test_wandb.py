"""The W&B run, read back from its offline file, equals the run directory."""

import os
import signal
import time
from datetime import datetime

import pytest

from sia_runner.store.run_directory import read_json
from tests.conftest import Cli
from tests.harnesses import MAJORITY, WORDS
from tests.tracking import offline
from tests.tracking.conftest import OFFLINE, kill_all, private_texts, sender_ended, told

STEPS = ("propose", "build", "gate", "run", "verify", "accept")


def results(cli, n):
    """Return what the journal has of a generation."""
    done = [entry for entry in cli.journal if entry["event"] == "done" and entry["step"].startswith(f"gen_{n}/")]
    return {entry["step"].partition("/")[2]: entry for entry in done}


def test_the_offline_file_equals_the_journal_generation_by_generation(tracked):
    rows = offline.verdicts(tracked.run)
    assert [(row["generation"], row["_step"]) for row in rows] == [(1, 0), (2, 1), (3, 2)]
    for row in rows:
        journal = results(tracked, row["generation"])
        assert row["status"] == journal["accept"]["result"]["status"]
        assert row["lever"] == journal["propose"]["result"]["lever"]
        seconds = {key.partition("/")[2]: value for key, value in row.items() if key.startswith("seconds/")}
        assert seconds == {step: entry["seconds"] for step, entry in journal.items()}
        verify = journal.get("verify", {"result": {"val": None, "outcomes": {}}})["result"]
        val = verify["val"] and [verify["val"]["value"], *verify["val"]["ci95"], verify["val"]["n"]]
        assert val == ([row[key] for key in ("val", "val_low", "val_high", "val_n")] if "val" in row else None)
        assert {key[9:]: value for key, value in row.items() if key.startswith("outcomes/")} == verify["outcomes"]
    assert [row["status"] for row in rows] == ["accepted", "accepted", "failed"]


def test_harnesses_are_versions_with_the_hash_of_the_journal(tracked):
    versions = offline.versions(tracked.run)
    for n, (kind, metadata, files) in enumerate(versions, 1):
        assert (kind, metadata["generation"]) == ("harness", n)
        assert files == offline.checksums(tracked.run / f"gen_{n}" / "harness") and list(files) == ["target_agent.py"]
        assert metadata["sha256"] == results(tracked, n)["build"]["result"]["sha256"]
    assert len(versions) == 3


def test_the_run_is_named_tagged_and_summed_up(tracked):
    (run,) = [record["run"] for _, record in offline.records(tracked.run) if record["type"] == "run"]
    assert run["run_id"] == read_json(tracked.run / "tracking" / "wandb.json")["id"]
    assert run["tags"] == ["secrets", "SIA-H, no model", "seed-0"] and run["project"] == "sia-runner"
    assert run["config"]["update"]["lock"]["config_sha256"] == read_json(tracked.run / "lock.json")["config_sha256"]
    last = {}
    for _, record in offline.records(tracked.run):
        last |= record["summary"]["update"] if record["type"] == "summary" else {}
    best = tracked.summary["best"]
    assert (last["status"], last["best/generation"]) == ("completed", best["generation"])
    assert (last["best/test"], last["best/val"]) == (best["test"]["value"], best["val"]["value"])


def test_tables_have_a_row_per_decision_and_per_kind_of_failure(tracked):
    columns, rows = offline.table(tracked.run, "decisions")
    assert [row[columns.index("status")] for row in rows] == ["accepted", "accepted", "failed"]
    columns, rows = offline.table(tracked.run, "failures")
    failed = dict(zip(columns, next(row for row in rows if row[0] == 3), strict=True))
    assert (failed["stage"], failed["fault"]) == ("gate", "KeyError")


def test_no_question_answer_or_key_is_in_anything_that_wandb_wrote(tracked, _own_cache):
    asked = set(private_texts(_own_cache))
    assert len(asked) > 300
    assert any(text in tracked.summary["generations"][2]["reason"] for text in asked)  # the crash did print one
    for file in [path for path in (tracked.run / "tracking").rglob("*") if path.is_file()]:
        written = file.read_bytes().decode(errors="replace")
        assert not [text for text in asked if text in written], file


def test_it_says_once_that_it_is_offline(tracked):
    (line,) = told(tracked.said)
    assert "offline: there is no key" in line and f"sia_runner sync {tracked.run}" in line
    assert (tracked.run / "metrics.csv").read_text().count("\n") == 4


@pytest.mark.slow
def test_killed_with_all_that_belongs_to_it_and_resumed_it_tells_nothing_twice(tmp_path):
    cli = Cli(tmp_path)
    args = ["tracker=wandb", "tracker.wait=60", *cli.replay(MAJORITY, WORDS, MAJORITY, WORDS)]
    run = cli.start(*args, env={**os.environ, **OFFLINE})
    until = time.monotonic() + 60
    while time.monotonic() < until and not list(cli.run.glob("tracking/wandb/*run-*/run-*.wandb")):
        time.sleep(0.05)
    kill_all(cli.run)
    run.communicate()
    assert cli(f"resume={cli.run}", env=OFFLINE).returncode == 0
    assert sender_ended(cli.run)
    rows = offline.verdicts(cli.run)
    assert [(row["generation"], row["_step"]) for row in rows] == [(n, n - 1) for n in (1, 2, 3, 4)]
    files = list(cli.run.glob("tracking/wandb/*run-*/run-*.wandb"))
    assert len(files) == 2 and len({file.name for file in files}) == 1  # two processes, one W&B run


def test_a_driver_that_was_killed_leaves_no_sender_behind(tmp_path):
    cli = Cli(tmp_path)
    run = cli.start(
        "tracker=wandb", "tracker.wait=120", *cli.replay(MAJORITY, WORDS, WORDS), env={**os.environ, **OFFLINE}
    )
    until, begun = time.monotonic() + 120, cli.run / "tracking" / "wandb.json"  # written once the sender has its lock
    while not begun.exists():
        assert time.monotonic() < until
        time.sleep(0.02)
    run.send_signal(signal.SIGKILL)
    run.communicate()
    assert sender_ended(cli.run)
    told = [row["generation"] for row in offline.verdicts(cli.run)]
    assert told == [g["n"] for g in cli.summary["generations"]]


def test_nothing_of_wandb_is_loaded_before_the_first_generation_has_ended(tracked):
    began = tracked.run.joinpath("tracking", "sender.lock").stat()
    judged = next(
        entry for entry in tracked.journal if entry.get("step") == "gen_1/accept" and entry["event"] == "done"
    )
    assert began.st_mtime >= datetime.fromisoformat(judged["at"]).timestamp() - 0.01
