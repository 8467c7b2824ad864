"""metrics.csv: one row per generation, rewritten whole."""

import csv

from sia_runner.tracking.local import FIELDS, Local

SCORED = {
    "n": 1,
    "lever": "harness",
    "algorithm": None,
    "status": "accepted",
    "reason": 'first, "quoted"',
    "val": {"value": 0.5, "ci95": [0.4, 0.6], "n": 100},
    "seconds": {"propose": 0.25, "run": 1.5},
    "usage": {"usd": 0.0, "tokens": 0, "calls": 0},
}
FAILED = SCORED | {"n": 2, "status": "failed", "reason": "gate: SyntaxError", "val": None}


def rows(folder):
    with (folder / "metrics.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))


def test_a_row_says_what_the_summary_says(tmp_path):
    Local().update(tmp_path, {"generations": [SCORED, FAILED]})
    first, second = rows(tmp_path)
    assert list(first) == FIELDS
    assert (first["val"], first["val_low"], first["n"], first["seconds"]) == ("0.5", "0.4", "100", "1.75")
    assert first["reason"] == 'first, "quoted"'
    assert (second["status"], second["val"]) == ("failed", "")


def test_a_second_update_leaves_no_double_row(tmp_path):
    for _ in range(2):
        Local().update(tmp_path, {"generations": [SCORED]})
    assert len(rows(tmp_path)) == 1
