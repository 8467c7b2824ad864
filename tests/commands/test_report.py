"""The command `report`: what it writes, and what it refuses."""

import pytest

from tests.results.report.conftest import summary


def test_it_writes_one_page_and_the_same_beside_it(report, smoke_sweep, trapped):
    done = report(trapped, f"sweep={smoke_sweep}")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"5 runs, 3 with a test score: {report.out}")
    written = {path.name for path in report.out.parent.iterdir()}
    ends = (".html", ".md", ".tex", ".runs.csv", ".generations.csv", ".pairs.csv")
    assert written == {f"page{end}" for end in ends}
    assert "| `smoke (no model)" in report.file(".md") and r"\begin{tabular}" in report.file(".tex")
    best = summary(trapped)["best"]["test"]["value"]
    assert str(best) in report.file(".runs.csv")


def test_a_folder_of_folders_holds_runs_too(report, smoke_sweep):
    done = report(smoke_sweep.parent)
    assert done.returncode == 0 and done.stdout.startswith("4 runs, 2 with a test score")


def test_the_runs_are_as_they_were(report, trapped):
    before = {path: path.lstat().st_mtime_ns for path in trapped.rglob("*")}
    assert report(trapped).returncode == 0
    assert {path: path.lstat().st_mtime_ns for path in trapped.rglob("*")} == before


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["/nowhere"], "/nowhere: no run there, no folder of runs, and no sweep"),
        (["seed=0"], "seed=0: no such option; did you mean 'sweep='?; allowed: columns=, out=, sweep=, wandb="),
        (["--json"], "--json: no such option"),
        (["wandb=me"], "wandb=me: give ENTITY/PROJECT"),
        ([], "no run is named"),
    ],
)
def test_what_cannot_be_done_is_one_line(report, trapped, given, said):
    done = report(*([trapped] if given == ["wandb=me"] else []), *given)
    assert done.returncode == 2 and said in done.stderr and done.stderr.count("\n") == 1
    assert not report.out.exists()


def test_the_page_must_be_named_as_one(report, trapped):
    report.out = report.out.with_suffix(".pdf")
    done = report(trapped)
    assert done.returncode == 2 and "out=page.pdf: name a file that ends in .html" in done.stderr
