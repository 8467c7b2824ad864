"""Charts of test: what is drawn of each run, and of each pair."""

from xml.etree import ElementTree

from sia_runner.results.report import charts
from sia_runner.results.report.analysis import contrast_arms
from sia_runner.results.report.svg import HEIGHT
from tests.results.report.making import HALF, MORE, both, finished
from tests.results.report.test_charts import group, marks


def texts(chart):
    return [item.text for item in ElementTree.fromstring(chart).iter() if item.tag == "text"]


def test_a_run_is_a_line_from_its_first_harness_to_its_best_and_an_arm_two_means():
    of = group(finished("a", MORE, HALF), finished("b", MORE, HALF, seed=1))
    chart = charts.chart_test_scores(of)
    assert len(marks(chart, "thread")) == 2
    assert ["hollow" in item.get("class") for item in marks(chart)].count(False) == 2
    assert {"50.0", "97.5", "initial", "best", "SIA-H"} <= set(texts(chart))


def test_the_only_run_of_an_arm_has_the_interval_of_its_score():
    of = group(finished("a", MORE, HALF))
    assert len(marks(charts.chart_test_scores(of), "whisker")) == 2
    low, high = of.runs[0].initial.ci95
    shares = [float(text[:-1]) / 100 for text in texts(charts.chart_test_scores(of)) if text and text.endswith("%")]
    assert min(shares) <= low + 0.1 and max(shares) >= high - 0.1
    assert [item.get("d").count("h7") for item in marks(charts.chart_test_scores(of), "whisker")] == [2, 2]


def test_a_run_without_a_test_score_is_no_line():
    of = group(finished("a", MORE, HALF), finished("b", MORE, seed=1, tests={}, arm=None))
    assert len(marks(charts.chart_test_scores(of), "thread")) == 1


def test_arms_differ_in_shape_and_not_in_colour_alone():
    chart = charts.chart_test_scores(group(*both(0, HALF, MORE)))
    shapes = {item.get("d")[-3:] for item in marks(chart) if "hollow" not in item.get("class")}
    assert len(shapes) == 2


def test_each_pair_has_its_interval_and_the_mean_both_of_the_verdict():
    of = group(*both(0, HALF, MORE), *both(1, HALF, MORE[::-1]))
    chart = charts.chart_differences(of, contrast_arms(of))
    assert ["hollow" in item.get("class") for item in marks(chart)] == [True, True, False, False]
    assert len(marks(chart, "whisker")) == 4 and len(marks(chart, "level")) == 1
    assert {"seed 0", "seed 1", "seeds", "questions", "difference on test, points"} <= set(texts(chart))


def test_a_difference_below_zero_is_drawn_below_the_line():
    of = group(*both(0, MORE, HALF))
    chart = charts.chart_differences(of, contrast_arms(of))
    (level,) = marks(chart, "level")
    first = marks(chart)[0].get("d")
    assert float(first.split(",")[1].split("h")[0]) > float(level.get("y1"))


def test_intervals_over_questions_are_whole():
    of = group(*both(0, HALF, [1, 1, 0, 0] * 10))
    chart = charts.chart_differences(of, contrast_arms(of))
    assert [item.get("d").count("h7") for item in marks(chart, "whisker")] == [2, 2]  # both ends have their cap


def test_what_leaves_the_frame_is_cut_there():
    of = group(*both(0, HALF, MORE), *both(1, MORE, HALF))  # Student's interval of two seeds is huge
    chart = charts.chart_differences(of, contrast_arms(of))
    ends = [float(item.get("d").split("V")[1].split("M")[0]) for item in marks(chart, "whisker")]
    assert all(0 <= end <= HEIGHT for end in ends)
