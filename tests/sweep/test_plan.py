"""The folder of a sweep and its table."""

import csv
import json
import os
import socket

import pytest

from sia_runner.store.run_directory import RunDirectoryError
from sia_runner.sweep.plan import PlannedRun, SweepDir, SweepPlan
from sia_runner.sweep.runner import _swept_name
from sia_runner.sweep.table import arm_names, sweep_run_status, sweep_table, write_table

SCORE = {"value": 0.5, "ci95": [0.4, 0.6], "n": 100}


def planned(name, *overrides, task="t", mode="SIA-H", seed=0):
    return PlannedRun(name, overrides, task, mode, seed)


@pytest.fixture
def sweep(tmp_path):
    return SweepDir(tmp_path)


def finished(sweep, name, test, val=0.5, usd=0.25):
    folder = sweep.path / name
    folder.mkdir()
    (folder / "config.yaml").touch()
    best = {"generation": 2, "val": SCORE | {"value": val}, "test": SCORE | {"value": test}, "baseline_test": SCORE}
    usage = {"usd": usd, "calls": 3, "tokens": 10}
    (folder / "summary.json").write_text(json.dumps({"best": best, "usage": usage, "metric": {"name": "accuracy"}}))
    sweep.end(name, 0)


def test_a_plan_is_read_as_it_was_written(sweep):
    plan = SweepPlan(("-m", "task=t"), "/where", (planned("0-t", "task=t", "seed=1", seed=1),))
    sweep.write_plan(plan)
    assert sweep.read_plan() == plan


def test_a_run_directory_is_no_sweep_though_a_generation_of_it_has_a_plan(sweep):
    (sweep.path / "plan.json").touch()
    (sweep.path / "config.yaml").touch()
    assert not sweep.is_sweep()
    with pytest.raises(RunDirectoryError, match="no sweep there"):
        sweep.read_plan()


def test_the_newest_job_of_a_run_counts_and_a_line_cut_by_a_kill_does_not(sweep):
    sweep.record_jobs("slurm", {"a": "1_0", "b": "1_1"})
    sweep.record_jobs("slurm", {"a": "2"})
    sweep.record_jobs("local", {"b": "77.5"})
    with sweep.submitted.open("a") as stream:
        stream.write('{"run": "a", "clus')
    assert sweep.recorded_jobs("slurm") == {"a": "2", "b": "1_1"} and sweep.recorded_jobs("local") == {"b": "77.5"}


@pytest.mark.parametrize(
    ("code", "name"),
    [(0, "completed"), (1, "crashed"), (2, "refused"), (3, "failed"), (4, "budget"), (130, "interrupted")],
)
def test_a_run_that_ended_is_called_by_its_exit_code(sweep, code, name):
    sweep.end("a", code, ["why"])
    assert sweep_run_status(sweep, "a") == name


def test_a_run_without_an_outcome_is_missing_running_or_cut(sweep):
    from sia_runner.store.lease import RunLease

    folder = sweep.path / "a"
    assert sweep_run_status(sweep, "a") == "missing"
    folder.mkdir()
    (folder / "config.yaml").touch()
    with RunLease(folder):
        assert sweep_run_status(sweep, "a") == "running"
        lease = json.loads((folder / "lease.json").read_text())
    (folder / "lease.json").write_text(json.dumps(lease | {"started": "1"}))  # as a kill leaves it
    assert lease["host"] == socket.gethostname() and lease["pid"] == os.getpid()
    assert sweep_run_status(sweep, "a") == "cut"


def test_the_mean_is_over_the_tested_seeds_of_one_arm(sweep):
    for name, test in (("0", 0.5), ("1", 0.75), ("3", 1.0)):
        finished(sweep, name, test)
    sweep.end("2", 2, ["trainer=grpo trains nothing here"])
    runs = [planned(str(n), "task=t", f"seed={seed}", f"+experiment={arm}", "max_gen=3", seed=seed)
            for n, (arm, seed) in enumerate([("h", 0), ("h", 1), ("wh", 0), ("wh", 1)])]  # fmt: skip
    summary = sweep_table(sweep, SweepPlan((), "/", tuple(runs)))
    first, second = summary["means"]
    assert (first["arm"], first["tested"], first["runs"]) == ("experiment=h", 2, 2)
    assert (first["test"], first["test_sd"]) == (0.625, pytest.approx(0.17677669529663687)) and first["usd"] == 0.5
    assert (second["tested"], second["test"], second["test_sd"], second["usd"]) == (1, 1.0, None, None)
    assert summary["runs"][2]["why"] == "trainer=grpo trains nothing here"


def test_the_table_is_written_for_programs_with_a_column_for_each_bound(sweep):
    finished(sweep, "0", 0.75, val=0.7)
    write_table(sweep, SweepPlan((), "/", (planned("0", "task=t"), planned("1", "task=t", seed=1))))
    row, other = csv.DictReader((sweep.path / "sweep.csv").open())
    assert (row["test"], row["test_low"], row["test_high"], row["test_n"]) == ("0.75", "0.4", "0.6", "100")
    assert (row["val"], row["usd"], row["status"]) == ("0.7", "0.25", "completed")
    assert (other["test"], other["status"], other["seed"]) == ("", "missing", "1")
    assert json.loads((sweep.path / "sweep.json").read_text())["means"][0]["tested"] == 1


def test_the_folder_of_a_run_names_what_was_swept():
    every = [["task=t", "seed=0", f"search.accept.rule={rule}"] for rule in ("ladder", "mcnemar")]
    assert [_swept_name(arm) for arm in arm_names(every)] == ["search.accept.rule=ladder", "search.accept.rule=mcnemar"]
    assert _swept_name("+experiment=sia_h".lstrip("+")) == "" and _swept_name("a=/b/{c}") == "a=_b_c_"


def test_the_mode_in_the_table_is_what_was_done(sweep):
    finished(sweep, "0", 0.5)
    summary = json.loads((sweep.path / "0" / "summary.json").read_text())
    done = {"mode": "SIA-H, no model", "untrained": "no harness called a model"}
    (sweep.path / "0" / "summary.json").write_text(json.dumps(summary | done))
    (row,) = sweep_table(sweep, SweepPlan((), "/", (planned("0", "task=t", mode="SIA-W+H"),)))["runs"]
    assert row["mode"] == "SIA-H, no model" and "no harness called a model" in row["why"]


def test_a_directed_run_has_a_mean_of_its_own(sweep):
    for name in ("0", "1"):
        finished(sweep, name, 0.5)
    summary = json.loads((sweep.path / "1" / "summary.json").read_text())
    notes = {"directions": [{"n": 2, "text": "look", "by": "", "at": ""}]}
    (sweep.path / "1" / "summary.json").write_text(json.dumps(summary | notes))
    runs = tuple(planned(str(seed), "task=t", f"seed={seed}", seed=seed) for seed in (0, 1))
    table = sweep_table(sweep, SweepPlan((), "/", runs))
    assert [mean["arm"] for mean in table["means"]] == ["", "directed"]
    assert "no fair arm: directed by a person, 1 note" in table["runs"][1]["why"]
