"""The table for a paper: what stands in it, and that nothing in it is read as markup."""

from dataclasses import replace

from sia_runner.results.report.analysis import SeedMean, contrast_arms, group_runs
from sia_runner.results.report.tables import (
    column_heads,
    escape_latex,
    format_figure,
    latex_table,
    markdown_table,
    paper_rows,
    row_cells,
)
from sia_runner.results.run import FinalTestResult
from sia_runner.selection.scoring import score_with_interval
from tests.results.report.making import HALF, MORE, both, finished, outcomes

TASK = {
    "name": "t",
    "published": {"source": "a paper", "protocol": "another base", "prior": 0.45, "sia_h": 0.5, "sia_wh": 0.701},
}


def table(runs):
    return [row for group in group_runs(runs) for row in paper_rows(group, contrast_arms(group))]


def published(runs):
    for run in runs:
        run.config["task"] = TASK
    return runs


def test_accuracy_is_told_in_percent_and_anything_else_in_its_own_units():
    assert format_figure(0.4228, "accuracy") == "42.3"
    assert format_figure(0.4228, "mse") == "0.4228"
    assert format_figure(SeedMean.of([0.40, 0.44]), "accuracy") == "42.0 ± 2.8"
    assert format_figure(0.015, "accuracy", sign=True) == "+1.5"
    assert format_figure(None, "accuracy") == "–"


def test_the_columns_are_those_of_the_paper():
    result = table([*both(0, HALF, MORE), *both(1, HALF, MORE)])
    assert column_heads(result) == ["Task", "Initial", "SIA-H", "SIA-W+H", "W+H − H", "Verdict", "Seeds"]
    (row,) = result
    assert row_cells(row, [])[1:4] == ["73.8 ± 0.0", "50.0 ± 0.0", "97.5 ± 0.0"]


def test_a_gain_has_its_interval_over_seeds():
    (row,) = table([*both(0, HALF, MORE), *both(1, HALF, HALF)])
    assert row_cells(row, [])[4:6] == ["+23.8 [-278.0, +325.5]", "tie"]


def test_what_others_published_is_a_row_of_its_own_and_compared_with_nothing():
    result = table(published([*both(0, HALF, MORE), *both(1, HALF, MORE)]))
    assert column_heads(result)[2] == "Prior" and row_cells(result[0], ["Prior"])[2] == "–"
    named, *figures = row_cells(result[1], ["Prior"])
    assert named == "t, published · a paper"
    assert figures == ["–", "45.0", "50.0", "70.1", "+20.1", "protocol differs", "–"]


def test_prior_is_a_column_only_where_a_task_declares_it():
    assert "Prior" not in column_heads(table(both(0, HALF, MORE)))


def test_runs_whose_first_harness_is_not_tested_yet_are_counted():
    young = replace(
        finished("b", HALF, seed=1), tests={2: FinalTestResult(2, score_with_interval(outcomes(HALF)), {}, [])}
    )
    (row,) = table([finished("a", HALF), young])
    assert row_cells(row, [])[1] == "50.0 (1 of 2 seeds)"


def test_latex_escapes_what_tex_would_read():
    assert escape_latex(r"a_b & 50% of #1 {x} \input{/etc/passwd} $~^") == (
        r"a\_b \& 50\% of \#1 \{x\} \textbackslash{}input\{/etc/passwd\} \$\textasciitilde{}\textasciicircum{}"
    )


def test_a_name_is_no_argument_of_the_row_before_it():
    assert [escape_latex(name) for name in ("[-9cm]", "* x", "a|b<c")] == [
        "{}[-9cm]",
        "{}* x",
        r"a\textbar{}b\textless{}c",
    ]


def test_a_name_cannot_add_a_row_or_a_column():
    hostile = replace(*table(both(0, HALF, MORE)), label="x | y\n| z & w \\\\ \\hline")
    in_markdown, in_latex = markdown_table([hostile], []), latex_table([hostile], ["50% & more"])
    assert len([line for line in in_markdown.splitlines() if line.startswith("|")]) == 3
    assert in_markdown.splitlines()[2].count(" | ") == len(column_heads([hostile])) - 1
    assert in_latex.count(r"\hline") == 0 and in_latex.count("\\\\\n") == 2
    assert r"\caption{50\% \& more}" in in_latex


def test_a_caption_cannot_be_markup():
    output = markdown_table([], ["![x](http://host/pixel) <b>*a*</b>\n# `b`"])
    assert output.endswith(r"!\[x\](http://host/pixel) \<b\>\*a\*\</b\> \# \`b\`" + "\n")
