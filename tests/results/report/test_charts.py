"""Charts: what is drawn, and axes that people can read."""

from dataclasses import replace
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sia_runner.records import Score
from sia_runner.results.report import charts
from sia_runner.results.report.analysis import group_runs
from sia_runner.results.report.svg import axis_ticks
from sia_runner.store.generations import GenerationRecord
from tests.results.report.making import HALF, finished


def generation(n, status, value=None):
    val = None if value is None else Score(value, (value - 0.05, value + 0.05), 40)
    return GenerationRecord(n, status, "harness", val=val)


STORY = (
    generation(1, "accepted", 0.4),
    generation(2, "rejected", 0.3),
    generation(3, "failed"),
    generation(4, "accepted", 0.5),
)


def group(*runs):
    (result,) = group_runs(runs)
    return result


def marks(chart, name="mark"):
    return [item for item in ElementTree.fromstring(chart).iter() if name in (item.get("class") or "").split()]


def test_the_incumbent_is_the_best_accepted_so_far():
    run = finished("a", HALF, generations=STORY)
    assert charts.incumbent_values(run, 5) == {1: 0.4, 2: 0.4, 3: 0.4, 4: 0.5, 5: 0.5}


def test_every_candidate_is_drawn_and_hollow_unless_it_was_accepted():
    ((name, chart),) = charts.charts_by_seed(group(finished("a", HALF, generations=STORY)))
    assert name == "seed 0"
    assert ["hollow" in item.get("class") for item in marks(chart)] == [False, True, False]
    assert len(marks(chart, "cross")) == 1 and len(marks(chart, "whisker")) == 3


def test_a_run_that_was_cut_is_not_averaged_but_drawn():
    whole = finished("a", HALF, generations=STORY)
    cut = replace(finished("b", HALF, seed=1, generations=STORY[:1]), status="cut")
    of = group(whole, cut)
    assert {n: item.n for n, item in charts.mean_incumbents(of.sides[0], 4).items()} == {1: 1, 2: 1, 3: 1, 4: 1}
    assert [name for name, _ in charts.charts_by_seed(of)] == ["seed 0", "seed 1"]


def test_a_curve_keeps_the_steps_of_its_values():
    chart = charts.chart_curve([(2, 0.5), (3, 0.5), (6, 1.0)], "drift_kl")
    (line,) = marks(chart, "line")
    x = [float(point.split(",")[0]) for point in line.get("points").split()]
    assert (x[2] - x[1]) == pytest.approx(3 * (x[1] - x[0]), abs=0.3)
    assert marks(charts.chart_curve([(4, 0.5)], "reward"), "line") == []


def test_means_are_over_seeds():
    better = tuple(replace(g, val=g.val and replace(g.val, value=g.val.value + 0.2)) for g in STORY)
    of = group(finished("a", HALF, generations=STORY), finished("b", HALF, seed=1, generations=better))
    assert charts.mean_incumbents(of.sides[0], 4)[4].value == pytest.approx(0.6)
    assert len(marks(charts.chart_over_seeds(of), "band")) == 1


def test_an_axis_of_shares_ends_at_all_of_them():
    nearly = tuple(replace(g, val=g.val and replace(g.val, value=0.99, ci95=(0.9, 1.0))) for g in STORY)
    of = group(finished("a", HALF, generations=nearly), finished("b", HALF, seed=1, generations=STORY))
    drawn = [charts.chart_over_seeds(of), *(chart for _, chart in charts.charts_by_seed(of))]
    shares = [
        float(node.text[:-1]) for chart in drawn for node in ElementTree.fromstring(chart).iter() if _is_share(node)
    ]
    assert shares and max(shares) <= 100


def _is_share(element):
    return (element.text or "").endswith("%")


def test_names_are_text_in_a_chart():
    hostile = finished('"><script>alert(1)</script>', HALF, generations=STORY)
    ((_, chart),) = charts.charts_by_seed(group(hostile))
    assert "<script" not in chart and "script" not in {item.tag for item in ElementTree.fromstring(chart).iter()}


def test_an_empty_group_has_a_chart_without_marks():
    assert marks(charts.chart_over_seeds(group(finished("a", HALF, generations=())))) == []


@given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e6))
def test_ticks_are_few_round_and_within(low, width):
    result = axis_ticks(low, low + width)
    assert 2 <= len(result) <= 12
    assert all(low - 1e-6 <= value <= low + width + width * 1e-6 + 1e-6 for value in result)


def test_ticks_of_an_ordinary_axis():
    assert axis_ticks(0.38, 0.52) == [0.4, 0.425, 0.45, 0.475, 0.5]
    assert axis_ticks(0, 100) == [0, 25, 50, 75, 100]
