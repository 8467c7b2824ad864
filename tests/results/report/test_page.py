"""The page: what stands in it, what cannot get into it, and that it needs nothing else."""

import base64
import hashlib
import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from sia_runner.records import Score
from sia_runner.results.report.analysis import report_sections
from sia_runner.results.report.page import (
    MAX_COLUMNS,
    MAX_LINES,
    format_p_value,
    format_score,
    format_seconds,
    render_page,
)
from sia_runner.results.report.tables import table_captions
from tests.results.report.conftest import HOSTILE, summary
from tests.results.report.making import HALF, MORE, both


class Page(HTMLParser):
    """Elements with their attributes, and the text of each table's row."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.rows, self.text, self.open = [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in ("meta", "br"):
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, f"</{tag}> closes nothing"

    def handle_data(self, data):
        self.text.append(data)
        if {"td", "th"} & set(self.open):
            self.rows[-1][-1] += data

    def row(self, first):
        return next([cell.strip() for cell in row] for row in self.rows if row[0].strip() == first)

    def named(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture(scope="session")
def text(smoke_sweep, trapped):
    from sia_runner.results.report.runs import find_sources, read_run

    runs = [read_run(result) for result in find_sources([smoke_sweep, trapped])]
    return render_page(report_sections(runs), runs, [str(smoke_sweep), str(trapped)])


@pytest.fixture
def page(text):
    return Page(text)


def test_every_element_is_closed(page):
    assert page.open == []


def test_figures_in_the_page_are_those_of_the_summary(page, trapped, smoke_sweep):
    for run in (trapped, *(path.parent for path in smoke_sweep.glob("*/summary.json"))):
        output = summary(run)
        initial, best = (output["best"][key] for key in ("baseline_test", "test"))
        row = page.row(run.name)
        expected = [
            f"{100 * score['value']:.1f} [{100 * score['ci95'][0]:.1f}, {100 * score['ci95'][1]:.1f}]"
            for score in (initial, best)
        ]
        assert row[1:4] == [str(best["n"]), *expected]  # what each run gained
        listed = [row for row in page.rows if row[0].strip() == run.name][-1]
        assert [cell.strip() for cell in listed[4:9]] == [output["status"], listed[5], listed[6], expected[1], "0"]


def test_runs_that_were_refused_are_rows_with_their_reason_below(page):
    refused = [at for at, row in enumerate(page.rows) if len(row) > 4 and row[4].strip() == "refused"]
    assert len(refused) == 2 and all("trainer=grpo trains the model" in page.rows[at + 1][-1] for at in refused)
    assert "2 of 5 runs did not complete" in " ".join("".join(page.text).split())


def test_what_a_harness_wrote_is_text(page):
    shown = "".join(page.text)
    assert HOSTILE in shown  # the diff of what was accepted, and why the third generation failed
    assert {tag for tag, _ in page.elements} & {
        "script",
        "img",
        "iframe",
        "object",
        "embed",
        "link",
        "form",
        "base",
    } == set()
    for _, attributes in page.elements:
        assert not [name for name in attributes if name.startswith("on") or name in ("src", "style", "srcset")]
    assert {attributes["href"] for attributes in page.named("a")} <= {"#runs"}


def test_control_characters_do_not_reach_the_page(text):
    assert "\x1b" not in text and "\u202e" not in text


def test_lines_are_bounded(page):
    lines = [len(line) for line in "".join(page.text).split("\n")]
    assert "long long" in "".join(page.text) and max(lines) < 40 * MAX_COLUMNS


def test_a_huge_change_is_cut_and_said(trapped, tmp_path, ran):
    copy = shutil.copytree(trapped, tmp_path / "huge", symlinks=True)
    (copy / "gen_2" / "harness" / "target_agent.py").write_text("x = 1\n" * 1900)
    runs = ran(copy)
    output = "".join(Page(render_page(report_sections(runs), runs, [])).text)
    assert output.count("+x = 1") == MAX_LINES - 1 and re.search(r"[\d,]+ more lines", output)


def test_the_policy_allows_nothing_but_the_pages_own_style(page, text):
    (policy,) = (meta["content"] for meta in page.named("meta") if meta.get("http-equiv"))
    style = re.search("<style>(.*?)</style>", text, re.S)[1]
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert policy == f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    assert "http" not in re.sub(r"http-equiv", "", style) and "@import" not in style and "url(" not in style


def test_charts_are_told_to_those_who_cannot_see_them(page):
    charts = [svg for svg in page.named("svg") if svg.get("role") == "img"]
    assert len(charts) >= 3 and all(len(svg["aria-label"]) > 30 for svg in charts)
    assert all(svg.get("aria-hidden") == "true" for svg in page.named("svg") if svg.get("role") != "img")


def test_a_difference_and_a_tie_are_called_by_their_names():
    runs = [*both(0, HALF, MORE), *both(1, HALF, HALF)]
    shown = Page(render_page(report_sections(runs), runs, []))
    assert shown.row("0")[-1] == "SIA-W+H · grpo better" and shown.row("1")[-1] == "tie"
    assert (
        "tie: SIA-W+H · grpo − SIA-H is +23.8 points over 2 seeds, 95% interval over seeds [-278.0, +325.5]"
        in " ".join("".join(shown.text).split())
    )


def test_an_official_graders_medal_stands_with_the_run_and_in_the_captions():
    line = "mlebench's grader: 0.81609; bronze medal, above the median of 2,000 teams"
    runs = both(0, HALF, MORE)
    runs[1].tests[2] = replace(runs[1].tests[2], leaderboard=[line, HOSTILE])
    result = report_sections(runs)
    shown = Page(render_page(result, runs, []))
    output = f"{runs[1].name}: {line}; {HOSTILE}."
    assert "".join(shown.text).count(output) == 1
    assert "script" not in {tag for tag, _ in shown.elements}
    assert any(output in caption for caption in table_captions(result, runs))


def test_figures_are_told_briefly():
    assert format_score(Score(0.5, (0.4, 0.6), 10), "accuracy") == "50.0 [40.0, 60.0] (n=10)"
    assert format_score(None, "mse") == "–"
    assert [format_p_value(p) for p in (None, 0.0004, 0.0312, 1.0)] == ["–", "<.001", ".031", "1.000"]
    assert [format_seconds(seconds) for seconds in (None, 42, 750, 11520)] == ["–", "42.0 s", "12.5 min", "3.2 h"]
