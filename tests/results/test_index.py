"""Tests of the index of all runs below a folder, which rereads only what changed."""

import os

from sia_runner.results import index as index_module
from sia_runner.results.index import RunIndex, find_runs, run_status
from sia_runner.store.lease import RunLease
from tests.results.writing import summary


def test_runs_and_runs_of_sweeps_are_found_and_links_are_not_followed(tmp_path):
    root = tmp_path / "runs"
    summary(root / "one")
    summary(root / "sweeps" / "s1" / "0-smoke")
    (root / "sweeps" / "s1" / "plan.json").write_text("{}")
    summary(tmp_path / "elsewhere")
    (root / "link").symlink_to(tmp_path / "elsewhere")
    summary(root / "one" / "gen_1")  # a harness may write a config.yaml too
    assert find_runs(root) == {"one": "", "sweeps/s1/0-smoke": "sweeps/s1"}
    assert find_runs(root / "one") == {".": ""}


def test_a_row_says_what_the_summary_says(tmp_path):
    summary(tmp_path / "one")
    (row,) = RunIndex(tmp_path).refresh()
    assert (row.path, row.status, row.task, row.mode, row.seed) == ("one", "completed", "smoke", "SIA-H", 3)
    assert (row.best, row.accepted, row.usd, row.test.value) == (1, 1, 1.25, 0.75)


def test_before_the_first_verdict_the_configuration_says_it(tmp_path):
    summary(tmp_path / "one")
    (tmp_path / "one" / "summary.json").unlink()
    (row,) = RunIndex(tmp_path).refresh()
    assert (row.status, row.task, row.seed, row.generations) == ("cut", "smoke", 3, 0)


def test_a_refresh_reads_only_what_changed(tmp_path, monkeypatch):
    reads, read_row = [], index_module._read_row
    monkeypatch.setattr(index_module, "_read_row", lambda run, path: reads.append(path) or read_row(run, path))
    for name in "abc":
        summary(tmp_path / name)
    index = RunIndex(tmp_path)
    index.refresh()
    index.refresh()
    assert sorted(reads) == ["a", "b", "c"]
    summary(tmp_path / "b", status="failed")
    assert {row.name: row.status for row in index.refresh()} == {"a": "completed", "b": "failed", "c": "completed"}
    assert reads[3:] == ["b"]


def test_many_runs_are_read_in_slices_the_newest_first(tmp_path):
    for number, name in enumerate("abc"):
        summary(tmp_path / name)
        for file in (tmp_path / name).iterdir():
            os.utime(file, (1_000 + number, 1_000 + number))
    index = RunIndex(tmp_path)
    assert index.refresh(seconds=0.0) == []
    assert set(index.paths) == {"a", "b", "c"}
    assert [row.name for row in index.refresh()] == ["c", "b", "a"]
    summary(tmp_path / "a", status="failed")
    assert {row.name: row.status for row in index.refresh(seconds=0.0)}["a"] == "completed"  # what it said before
    assert {row.name: row.status for row in index.refresh()}["a"] == "failed"


def test_a_summary_of_any_shape_gives_a_row(tmp_path):
    for number, text in enumerate(
        ["[]", "{", '{"generations": 3, "best": [], "usage": {"usd": NaN}, "metric": "x"}', '"\\ud800"']
    ):
        summary(tmp_path / f"r{number}")
        (tmp_path / f"r{number}" / "summary.json").write_text(text)
    rows = RunIndex(tmp_path).refresh()
    assert len(rows) == 4
    assert all(row.val is None and row.usd is None for row in rows)


def test_a_run_whose_process_lives_is_running_whatever_its_summary_says(tmp_path):
    summary(tmp_path / "one", status="interrupted")
    with RunLease(tmp_path / "one"):
        (row,) = RunIndex(tmp_path).refresh()
        assert row.status == "running"
        assert row.host
    (row,) = RunIndex(tmp_path).refresh()
    assert row.status == "interrupted"


def test_nothing_is_written_where_a_process_of_another_machine_is_looked_for(tmp_path):
    summary(tmp_path / "one")
    (tmp_path / "one" / "lease.json").write_text(
        '{"host": "other", "boot": "b", "space": "s", "pid": 1, "started": "1"}'
    )
    before = sorted((tmp_path / "one").iterdir())
    (row,) = RunIndex(tmp_path).refresh()
    assert row.host == "other"
    assert sorted((tmp_path / "one").iterdir()) == before


def test_states():
    assert run_status("running", False, False) == "cut"
    assert run_status(None, False, True) == "running"
    assert run_status("interrupted", True, False) == "waits"
    assert run_status("budget", False, False) == "budget"
