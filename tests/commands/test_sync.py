"""The command `sync`: what W&B does not have is sent, once."""

import json
import shutil
import tempfile
from importlib.util import find_spec

import pytest

from sia_runner.commands.sync import _started_runs
from sia_runner.store.run_directory import read_json
from tests.conftest import Cli
from tests.harnesses import MAJORITY, WORDS
from tests.results.writing import summary
from tests.tracking.conftest import OFFLINE, private_texts, sync
from tests.tracking.server import serving
from tests.wandb_server import KEY

pytestmark = pytest.mark.skipif(not find_spec("wandb"), reason="wandb is missing: pip install 'sia-runner[tracking]'")


def copied(tracked, tmp_path):
    """Return a copy of the finished run, which a test may change."""
    shutil.copytree(tracked.run, tmp_path / "run", symlinks=True)
    return tmp_path / "run"


def told(server, run):
    name = read_json(run / "tracking" / "wandb.json")["id"]
    return server.runs[name]


def test_a_run_that_was_offline_is_pushed_once(tracked, tmp_path):
    run = copied(tracked, tmp_path)
    with serving() as server:
        first, second = sync(run, server), sync(run, server)
        assert (first.returncode, second.returncode) == (0, 0), first.stdout + first.stderr
        of = told(server, run)
        assert [(row["_step"], row["generation"]) for row in of["rows"]] == [(0, 1), (1, 2), (2, 3)]
        assert sorted(item.metadata["generation"] for item in server.versions.of("harness")) == [1, 2, 3]
        assert of["summary"]["best/test"] == tracked.summary["best"]["test"]["value"]
    assert "6 rows and versions" in first.stdout and "no rows and versions" in second.stdout


@pytest.mark.slow
def test_what_broke_off_is_completed_from_the_run_directory(tracked, tmp_path):
    run = copied(tracked, tmp_path)
    with serving() as server:
        assert sync(run, server).returncode == 0
        of = told(server, run)
        of["rows"], of["summary"] = of["rows"][:1], {"_step": 0}  # the rest never arrived
        assert sync(run, server).returncode == 0
        assert [row["generation"] for row in of["rows"]] == [1, 2, 3]


@pytest.mark.slow
def test_a_run_that_was_not_tracked_can_be_pushed_and_named(tmp_path):
    cli = Cli(tmp_path)
    assert cli(*cli.replay(MAJORITY, WORDS), env=OFFLINE).returncode == 0
    with serving() as server:
        done = sync(cli.run, server, "project=mine", "entity=me")
        assert done.returncode == 0, done.stdout + done.stderr
        assert told(server, cli.run)["project"] == "mine"
        assert [row["generation"] for row in told(server, cli.run)["rows"]] == [1, 2]


@pytest.mark.slow
def test_a_run_that_somebody_sends_elsewhere_is_whole_there(tracked, tmp_path):
    run = copied(tracked, tmp_path)
    with serving() as server:
        assert sync(run, server).returncode == 0
    with serving() as another:
        assert sync(run, another, "project=other").returncode == 0
        assert told(another, run)["project"] == "other" and len(told(another, run)["rows"]) == 3
        assert len(another.versions.of("harness")) == 3


def test_what_the_server_keeps_of_a_harness_is_what_lies_in_the_run_directory(tracked, tmp_path):
    """Uploaded by wandb itself, and committed: the bytes, and the hash that the journal has of them."""
    run = copied(tracked, tmp_path)
    with serving() as server:
        assert sync(run, server).returncode == 0
        kept = {item.metadata["generation"]: item for item in server.versions.of("harness")}
    assert sorted(kept) == [1, 2, 3] and all(item.committed for item in kept.values())
    for n, item in kept.items():
        assert item.files == {"target_agent.py": (run / f"gen_{n}" / "harness" / "target_agent.py").read_bytes()}
        done = next(e for e in tracked.journal if e["event"] == "done" and e["step"] == f"gen_{n}/build")
        assert item.metadata["sha256"] == done["result"]["sha256"]
        assert f"gen-{n}" in item.aliases and ("best" in item.aliases) == (item.metadata["status"] == "accepted")


@pytest.mark.slow
def test_tables_are_readable_there(tracked, tmp_path):
    run = copied(tracked, tmp_path)
    with serving() as server:
        assert sync(run, server).returncode == 0 and sync(run, server).returncode == 0
        tables = {next(iter(item.files)): item for item in server.versions.of("run_table")}
    assert len(server.versions.of("run_table")) == 2  # the second time they were equal
    decisions = json.loads(tables["decisions.table.json"].files["decisions.table.json"])
    status = decisions["columns"].index("status")
    assert [row[status] for row in decisions["data"]] == ["accepted", "accepted", "failed"]


def test_nothing_private_reaches_the_server(tracked, tmp_path, _own_cache):
    run = copied(tracked, tmp_path)
    with serving() as server:
        assert sync(run, server).returncode == 0
        sent = b"\n".join(server.bodies).decode(errors="replace")
    assert '\\"generation\\":3' in sent  # the crash was told of
    assert KEY not in sent
    assert str(tmp_path) not in sent and f"{tempfile.gettempdir()}/" not in sent
    assert not [text for text in private_texts(_own_cache) if text in sent]


def test_without_a_key_or_a_server_it_says_so_and_fails(tracked, tmp_path):
    run = copied(tracked, tmp_path)
    with serving() as server:
        keyless = sync(run, server, key="")
        server.behaviour = "401"
        refused = sync(run, server)
    assert (keyless.returncode, refused.returncode) == (1, 1)
    assert "there is no key" in keyless.stdout and "the key is refused" in refused.stdout


def test_no_run_is_refused_in_one_line(tmp_path):
    with serving() as server:
        done = sync(tmp_path, server)
    assert done.returncode == 2 and done.stderr.startswith("refused: ") and done.stderr.count("\n") == 1


def test_of_a_folder_the_runs_are_meant_that_finished_a_generation(tmp_path):
    for name in ("a", "b", "sweep/0-t"):
        summary(tmp_path / name)
    (tmp_path / "b" / "summary.json").unlink()
    assert _started_runs(tmp_path) == [tmp_path / "a", tmp_path / "sweep" / "0-t"]
