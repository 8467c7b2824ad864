"""A run directory is told as rows whose numbers never change, however often and from where it is told."""

import json

from sia_runner.store.run_directory import RunDir
from sia_runner.tracking.rows import RowStream

USAGE = {"usd": 0.25, "tokens": 10, "calls": 2, "input_tokens": 8, "output_tokens": 2, "unanswered": 0}


def generation(n, status="accepted", value=0.5, **changes):
    val = None if value is None else {"value": value, "ci95": [value - 0.1, value + 0.1], "n": 40}
    of = {"n": n, "lever": "harness", "algorithm": None, "status": status, "parent": n - 1 or None, "val": val,
          "outcomes": {"correct": 20, "wrong": 20}, "training": None, "seconds": {"propose": 1.0, "run": 2.5},
          "usage": USAGE}  # fmt: skip
    return of | changes


def steps(run, n, *numbers):
    here = run.generation(n)
    here.path.mkdir(exist_ok=True)
    with here.curve.open("a") as lines:
        lines.writelines(json.dumps({"step": k, "reward": k / 10}) + "\n" for k in numbers)


def test_a_curve_is_told_as_it_grows_and_before_its_verdict(tmp_path):
    run, first = RunDir(tmp_path), {"generations": [generation(1)]}
    story = RowStream(run)
    assert [(row.number, row.verdict and row.verdict.n) for row in story.news(first)] == [(0, 1)]
    steps(run, 2, 1, 2)
    assert [row.figures["train/step"] for row in story.news(first)] == [1, 2]
    steps(run, 2, 3)
    both = {"generations": [generation(1), generation(2, lever="weights", algorithm="grpo")]}
    assert [(row.number, row.verdict and row.verdict.n) for row in story.news(both)] == [(3, None), (4, 2)]
    steps(run, 3, 1)
    (last,) = story.news(both)
    assert last.figures == {"train/generation": 3, "train/point": 4, "train/step": 1, "train/reward": 0.1}


def test_told_again_from_the_start_every_row_has_the_same_number(tmp_path):
    run, generations = RunDir(tmp_path), [generation(n) for n in (1, 2, 3)]
    steps(run, 2, 1, 2, 3)
    live, told = RowStream(run), []
    for known in range(1, 4):
        told += live.news({"generations": generations[:known]})
    assert told == list(RowStream(run).news({"generations": generations}))
    assert [row.number for row in told] == list(range(6))


def test_a_verdict_has_score_interval_cost_time_and_outcomes(tmp_path):
    (first, failed) = RowStream(RunDir(tmp_path)).news({"generations": [generation(1), generation(2, "failed", None)]})
    figures = first.figures
    assert (figures["val"], figures["val_low"], figures["val_high"], figures["val_n"]) == (0.5, 0.4, 0.6, 40)
    assert (figures["accepted"], figures["seconds"], figures["seconds/run"], figures["usage/usd"]) == (
        1,
        3.5,
        2.5,
        0.25,
    )
    assert figures["outcomes/wrong"] == 20 and "parent" not in figures
    assert (failed.figures["accepted"], failed.figures["best_val"]) == (0, 0.5) and "val" not in failed.figures


def test_the_best_score_so_far_is_the_incumbents(tmp_path):
    of = [generation(1, value=0.5), generation(2, "rejected", 0.6), generation(3, value=0.55)]
    assert [row.figures["best_val"] for row in RowStream(RunDir(tmp_path)).news({"generations": of})] == [
        0.5,
        0.5,
        0.55,
    ]


def test_the_price_of_a_call_that_nobody_knows_is_left_out(tmp_path):
    (row,) = RowStream(RunDir(tmp_path)).news({"generations": [generation(1, usage=USAGE | {"usd": None})]})
    assert "usage/usd" not in row.figures and row.figures["usage/calls"] == 2
