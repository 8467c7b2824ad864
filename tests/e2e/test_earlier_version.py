"""Run directories that the version d029a29 wrote, in its names of keys and classes, still verify, report and resume."""

import csv
import json
import os
import subprocess
import sys

import pytest

from sia_runner.config.migration import read_stored_config
from sia_runner.results.index import RunIndex
from sia_runner.results.run import RunReader
from sia_runner.results.web.data import run_page
from sia_runner.store.run_directory import RunDir
from sia_runner.tracking.facts import experiment_facts

# name -> test scores of the first harness and of the best candidate, and the number of test questions
TESTED = {"sia_h": (0.385, 0.955, 200), "sia_wh": (0.515, 0.585, 400)}


def command(folder, *args):
    done = subprocess.run(
        [sys.executable, "-m", "sia_runner", *map(str, args)],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"COLUMNS": "240"},
    )
    return done.returncode, done.stdout + done.stderr


def scores_on_test(run):
    best = json.loads((run / "summary.json").read_text())["best"]
    return best["baseline_test"]["value"], best["test"]["value"], best["test"]["n"]


def check_verified(folder, name):
    code, output = command(folder, "verify", name)
    assert code == 0 and "every score was recomputed and holds" in output, output


@pytest.mark.parametrize("name", TESTED)
def test_verify_finds_no_fault(earlier_runs, name):
    check_verified(earlier_runs, name)


def test_the_report_shows_the_scores_and_no_faults(earlier_runs):
    code, output = command(earlier_runs, "report", "sia_h", "sia_wh")
    assert code == 0, output
    with (earlier_runs / "report.runs.csv").open() as file:
        rows = {row["run"]: row for row in csv.DictReader(file)}
    shown = {name: tuple(float(row[key]) for key in ("initial_test", "test", "test_n")) for name, row in rows.items()}
    assert shown == TESTED and not any(row["faults"] for row in rows.values())


def test_an_earlier_run_compares_with_one_of_today_as_the_same_experiment(earlier_runs):
    overrides = ["task=smoke", "max_gen=3", "meta_agent.trials=2", "hydra.run.dir=today"]
    code, output = command(earlier_runs, *overrides)
    assert code == 0 and scores_on_test(earlier_runs / "today") == TESTED["sia_h"], output
    code, output = command(earlier_runs, "compare", "sia_h", "today")
    assert code == 0 and output.count("0.955") == 2, output
    assert "sia_h and today" not in output, output  # no setting differs


def test_the_dashboard_shows_the_scores(earlier_runs):
    rows = {row.name: row for row in RunIndex(earlier_runs).refresh()}
    assert {name: (row.test.value, row.test.n) for name, row in rows.items()} == {
        name: (best, questions) for name, (_, best, questions) in TESTED.items()
    }
    for name, (first, best, questions) in TESTED.items():
        reader = RunReader(earlier_runs / name)
        reader.refresh()
        scores = [test["score"] for test in run_page(reader, name)["tests"]]
        assert [(score["value"], score["n"]) for score in scores] == [(best, questions), (first, questions)]


def test_the_tracker_sends_the_settings_in_todays_names(earlier_runs):
    run = RunDir(earlier_runs / "sia_wh")
    facts = experiment_facts(run, read_stored_config(run.config))
    assert (facts["trainer"]["group_size"], facts["search"]["parallel_candidates"]) == (8, 1)


@pytest.mark.parametrize("name", TESTED)
def test_a_finished_run_resumes_to_the_same_end(earlier_runs, name):
    if name == "sia_wh":
        pytest.importorskip("torch", reason="its policy needs the extra `training`")
    before = (earlier_runs / name / "config.yaml").read_bytes()
    code, output = command(earlier_runs, f"resume={name}")
    assert code == 0 and scores_on_test(earlier_runs / name) == TESTED[name], output
    assert (earlier_runs / name / "config.yaml").read_bytes() == before
    check_verified(earlier_runs, name)


@pytest.mark.parametrize(("name", "more"), [("sia_h", 4), pytest.param("sia_wh", 3, marks=pytest.mark.slow)])
def test_a_finished_run_goes_on_with_more_generations(earlier_runs, name, more):
    code, output = command(earlier_runs, f"resume={name}", f"max_gen={more}")
    assert code == 0, output
    summary = json.loads((earlier_runs / name / "summary.json").read_text())
    assert len(summary["generations"]) == more and scores_on_test(earlier_runs / name) == TESTED[name]
    check_verified(earlier_runs, name)


def test_an_old_key_beside_resume_is_refused(earlier_runs):
    code, output = command(earlier_runs, "resume=sia_h", "budget.reserve=0.2")
    assert code == 2 and output == "refused: budget.reserve=0.2: renamed; use budget.test_reserve=…\n"
