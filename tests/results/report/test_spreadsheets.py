"""CSV: the figures unrounded, and nothing that a spreadsheet would carry out."""

import csv
import io

from sia_runner.results.report import tables
from sia_runner.results.report.analysis import report_sections
from tests.results.report.conftest import HOSTILE, summary
from tests.results.report.making import HALF, MORE, both, finished


def rows(text):
    return list(csv.DictReader(io.StringIO(text)))


def test_figures_are_exactly_those_of_the_summary(smoke_sweep, trapped, ran):
    runs = ran(smoke_sweep, trapped)
    for row in rows(tables.runs_csv(runs)):
        if row["status"] != "completed":
            assert row["status"] == "refused" and row["test"] == ""
            continue
        output = summary(next(run.path for run in runs if run.name == row["run"]))
        best = output["best"]
        for name, score in (("val", best["val"]), ("test", best["test"]), ("initial_test", best["baseline_test"])):
            result = [float(row[key]) for key in (name, f"{name}_low", f"{name}_high", f"{name}_n")]
            assert result == [score["value"], *score["ci95"], score["n"]]
        assert (float(row["usd"]), int(row["tokens"]), int(row["calls"])) == tuple(
            output["usage"][key] for key in ("usd", "tokens", "calls")
        )


def test_a_generation_is_a_row(trapped, ran):
    result = rows(tables.generations_csv(ran(trapped)))
    output = summary(trapped)["generations"]
    assert [(int(row["generation"]), row["status"]) for row in result] == [(g["n"], g["status"]) for g in output]
    assert [row["val"] for row in result] == [str(g["val"]["value"]) if g["val"] else "" for g in output]
    assert HOSTILE in result[2]["reason"]


def test_pairs_are_told_between_arms_and_within_runs():
    result = rows(tables.pairs_csv(report_sections(both(0, HALF, MORE))))
    assert [row["kind"] for row in result] == ["arms", "first harness to best", "first harness to best"]
    assert result[0]["won"] == "20" and result[0]["verdict"] == "SIA-W+H · grpo better"


def test_what_a_spreadsheet_takes_for_a_formula_is_text():
    for hostile in ('=HYPERLINK("x")', "+1", "-1", "@x", "\t=1", "\n=1"):
        (row,) = rows(tables.runs_csv([finished(hostile, HALF, why=hostile)]))
        assert row["run"].startswith("'") and row["why"].startswith("'")


def test_numbers_stay_numbers():
    (row,) = rows(tables.runs_csv([finished("a", HALF, usage={"usd": -0.5, "tokens": 1, "calls": 1})]))
    assert row["usd"] == "-0.5"


def test_without_rows_there_is_an_empty_file():
    assert tables.pairs_csv([]) == ""
