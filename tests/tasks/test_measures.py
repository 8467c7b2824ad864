"""Metrics by name equal scikit-learn's where every question is answered, and nothing is gained by leaving one out."""

import math
import random

import pytest
from pydantic import ValidationError
from sklearn import metrics

from sia_runner.records import OutcomeKind
from sia_runner.tasks.protocol import TaskError
from sia_runner.tasks.verifiers.measures import MEASURES, measure_outcomes, scale_of
from tests.tasks.making import keys, small_task, spec, submit

KIND = OutcomeKind
CLASSES = ["ant", "bee", "cat"]


def measured(name, gold, given, choices=()):
    """The metric of lists of gold answers and of tuples of cells; None is left out."""
    truths = {str(unit): str(truth) for unit, truth in enumerate(gold)}
    cells = {str(unit): tuple(map(str, row)) for unit, row in enumerate(given) if row is not None}
    measure = MEASURES[name]
    found = measure_outcomes(measure, cells, set(), truths, scale_of(measure, truths.values(), choices))
    aggregate = measure.aggregate(truths) if measure.aggregate else (lambda o: sum(x.value for x in o) / len(o))
    return aggregate(found), found


def numbers(seed, low=0.0):
    draw = random.Random(seed)
    gold = [draw.lognormvariate(1, 1) for _ in range(60)]
    return gold, [max(low, truth + draw.gauss(0, 2)) for truth in gold]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(
    ("name", "theirs"),
    [
        ("rmse", metrics.root_mean_squared_error),
        ("mae", metrics.mean_absolute_error),
        ("rmsle", metrics.root_mean_squared_log_error),
    ],
)
def test_errors_of_numbers_are_scikit_learns(name, theirs, seed):
    gold, given = numbers(seed)
    value, found = measured(name, gold, [(number,) for number in given])
    assert value == pytest.approx(theirs(gold, given), abs=1e-12)
    assert {outcome.kind for outcome in found} == {KIND.PARTIAL}


@pytest.mark.parametrize("seed", range(5))
def test_log_loss_is_scikit_learns_also_for_certainties(seed):
    draw = random.Random(seed)
    gold = [draw.choice(CLASSES) for _ in range(50)]
    shares = [[draw.random() for _ in CLASSES] for _ in gold]
    rows = [tuple(share / sum(row) for share in row) for row in shares[:-2]] + [(1.0, 0.0, 0.0), (0.0, 1.0, 0.0)]
    value, found = measured("log_loss", gold, rows, CLASSES)
    assert value == pytest.approx(metrics.log_loss(gold, rows, labels=CLASSES), abs=1e-12)
    best = [CLASSES[max(range(3), key=row.__getitem__)] for row in rows]
    assert [o.kind is KIND.CORRECT for o in found] == [a == b for a, b in zip(best, gold, strict=True)]


@pytest.mark.parametrize("seed", range(5))
def test_quadratic_kappa_is_scikit_learns(seed):
    draw = random.Random(seed)
    gold = [draw.randrange(5) for _ in range(80)]
    given = [min(4, max(0, truth + draw.choice([-2, -1, 0, 0, 1]))) for truth in gold]
    value, _ = measured("quadratic_kappa", gold, [(rating,) for rating in given])
    assert value == pytest.approx(metrics.cohen_kappa_score(gold, given, weights="quadratic"), abs=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_macro_f1_is_scikit_learns(seed):
    draw = random.Random(seed)
    gold = [draw.choice(CLASSES) for _ in range(60)]
    given = [draw.choice([truth, "bee"]) for truth in gold]
    value, _ = measured("macro_f1", gold, [(name,) for name in given])
    assert value == pytest.approx(metrics.f1_score(gold, given, average="macro"), abs=1e-12)


def test_a_constant_rating_has_no_kappa_to_speak_of():
    assert measured("quadratic_kappa", [2, 2, 2], [(2,)] * 3)[0] == 0.0


WORST = {
    "rmse": ([1.0, 5.0, 9.0], [("1.5",), ("5",), ("8",)]),
    "rmsle": ([1.0, 5.0, 9.0], [("1.5",), ("5",), ("8",)]),
    "mae": ([1.0, 5.0, 9.0], [("1.5",), ("5",), ("8",)]),
    "log_loss": (CLASSES, [(0.5, 0.25, 0.25)] * 3),
    "quadratic_kappa": ([0, 2, 4], [("1",), ("2",), ("4",)]),
    "macro_f1": (CLASSES, [("bee",), ("bee",), ("cat",)]),
}


@pytest.mark.parametrize("name", WORST)
@pytest.mark.parametrize("left_out", [0, 1, 2])
@pytest.mark.parametrize("bad", [None, ("nan",), ("1e999",), ("",), ("one",), ("-2",), ("2.5e400", "0", "0")])
def test_no_answer_is_better_than_any_that_was_left_out_or_malformed(name, left_out, bad):
    gold, given = WORST[name]
    spoiled = [bad if place == left_out else row for place, row in enumerate(given)]
    if name in ("rmse", "mae") and bad == ("-2",):
        pytest.skip("a number like any other")
    whole, found = measured(name, gold, given, CLASSES if name == "log_loss" else ())
    less, missing = measured(name, gold, spoiled, CLASSES if name == "log_loss" else ())
    worse = less > whole if name in ("rmse", "rmsle", "mae", "log_loss") else less <= whole
    assert worse, (whole, less)
    assert missing[left_out].kind in (KIND.NO_ANSWER, KIND.INVALID_FORMAT)
    assert all(math.isfinite(outcome.value) for outcome in [*found, *missing])


def test_leaving_out_is_as_bad_as_the_farthest_number_there_is():
    _, (first, *_) = measured("rmse", [1.0, 5.0, 9.0], [None, ("5",), ("9",)])
    assert (first.kind, first.value) == (KIND.NO_ANSWER, 64.0)
    _, (only,) = measured("rmse", [7.0], [None])
    assert only.value == 1.0  # one gold answer alone: still no perfect score for silence


@pytest.mark.parametrize("row", [(0.5, 0.5, 0.5), (1.2, -0.1, -0.1), (0.5, 0.5), ("0.3", "x", "0.7")])
def test_probabilities_are_shares_of_one(row):
    _, (first, _, _) = measured("log_loss", CLASSES, [row, (0, 1, 0), (0, 0, 1)], CLASSES)
    assert first.kind is KIND.INVALID_FORMAT
    assert first.value == pytest.approx(36.04, abs=0.01)


REASONS = [
    ("log_loss", CLASSES, ("0.333", "0.333", "0.333"), "add up to 0.999, must add up to 1 within 1.1e-05"),
    ("log_loss", CLASSES, ("0.3", "x", "0.7"), "2 of 3 are probabilities"),
    ("rmse", [1.0, 2.0], ("nan",), "a finite number"),
    ("rmsle", [1.0, 2.0], ("-2",), "above -1"),
    ("quadratic_kappa", [0, 4], ("2.5",), "a whole number"),
    ("macro_f1", CLASSES, ("wasp",), "one of the classes"),
]


@pytest.mark.parametrize(("name", "gold", "cells", "reason"), REASONS)
def test_an_invalid_answer_is_shown_with_the_reason(name, gold, cells, reason):
    choices = CLASSES if name == "log_loss" else ()
    _, (first, *_) = measured(name, gold, [cells, *[None] * (len(gold) - 1)], choices)
    assert first.kind is KIND.INVALID_FORMAT
    assert first.prediction.startswith(", ".join(cells)) and reason in first.prediction


def test_the_reason_is_there_after_an_answer_of_any_length():
    """MLE-bench's competitions have up to 120 classes."""
    classes = [f"breed {n}" for n in range(120)]
    _, (first, *_) = measured("log_loss", classes, [("0.00832",) * 120, *[None] * 119], classes)
    assert len(first.prediction) <= 300 and "add up to 0.9984" in first.prediction


@pytest.mark.parametrize("rating", ["2.5", "5", "-1"])
def test_a_rating_is_a_whole_number_of_the_scale(rating):
    _, (first, _) = measured("quadratic_kappa", [0, 4], [(rating,), ("4",)])
    assert (first.kind, first.value) == (KIND.INVALID_FORMAT, 0.0)


def test_a_table_task_takes_them_by_name_and_asks_for_a_column_per_class(tmp_path):
    rows = [(i, f"text {i}", CLASSES[i % 3]) for i in range(150)]
    metric = {"name": "log_loss", "verifier": "log_loss", "higher_is_better": False, "choices": CLASSES}
    task = small_task(tmp_path, rows, metric=metric)
    asked = keys(task)
    view = task.lay_out(task.rounds("gate")[0], tmp_path / "view", "salt")
    assert "with the columns `id`, `ant`, `bee`, `cat`" in (view.path / "task.md").read_text()
    table = "id,ant,bee,cat\n" + "".join(f"{name},0.5,0.25,0.25\n" for name in asked)
    found = task.verify(submit(tmp_path / "given", table), asked, KIND.NO_ANSWER)
    gold = [rows[int(unit)][2] for unit in asked.values()]
    assert task.score(found).value == pytest.approx(
        metrics.log_loss(gold, [[0.5, 0.25, 0.25]] * len(gold), labels=CLASSES)
    )
    assert task.official_grade(tmp_path, asked, task.score(found)) is None
    [missing] = {o.kind for o in task.verify(tmp_path / "nothing", asked, KIND.TIMEOUT)}
    assert missing is KIND.TIMEOUT


def test_a_metric_that_takes_all_answers_is_scored_as_one_with_an_interval(tmp_path):
    rows = [(i, f"text {i}", i % 5) for i in range(200)]
    metric = {"name": "kappa", "verifier": "quadratic_kappa"}
    task = small_task(tmp_path, rows, metric=metric)
    asked = keys(task)
    table = "id,label\n" + "".join(f"{name},{max(0, rows[int(unit)][2] - 1)}\n" for name, unit in asked.items())
    found = task.verify(submit(tmp_path / "given", table), asked, KIND.NO_ANSWER)
    gold = [rows[int(unit)][2] for unit in asked.values()]
    score = task.score(found)
    theirs = metrics.cohen_kappa_score(gold, [max(0, truth - 1) for truth in gold], weights="quadratic")
    assert score.value == pytest.approx(theirs, abs=1e-12)
    assert score.ci95[0] < score.value < score.ci95[1]


@pytest.mark.parametrize(
    ("metric", "line"),
    [
        ({"verifier": "rmse"}, "rmse.*metric.higher_is_better.*false"),
        (
            {"verifier": "macro_f1", "higher_is_better": False},
            "macro_f1.*metric.higher_is_better.*true",
        ),
        ({"verifier": "log_loss", "higher_is_better": False}, "log_loss.*metric.choices"),
    ],
)
def test_a_metric_that_does_not_fit_is_refused(tmp_path, metric, line):
    with pytest.raises(ValidationError, match=line):
        spec(tmp_path, metric={"name": "m", **metric})


def test_gold_that_the_metric_cannot_take_is_told(tmp_path):
    rows = [(i, f"text {i}", "high" if i == 7 else i) for i in range(50)]
    metric = {"name": "rmse", "verifier": "rmse", "higher_is_better": False}
    task = small_task(tmp_path, rows, metric=metric, splits={"dev": 0.1, "val": 0.2, "test": 0.2, "stratify": False})
    with pytest.raises(TaskError, match="answer of 7.*'high'"):
        task.prepare(lambda _: None)
