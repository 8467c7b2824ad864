"""Metrics of a whole set of answers, by name: a value per question, and an aggregate that makes the metric of them.

A question without a valid answer gets the worst value that an answer within the range of all gold answers can have, so
that leaving it out never helps. Tests compare them with scikit-learn, with every question answered.
"""

import math
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from sia_runner.records import Outcome, OutcomeKind
from sia_runner.selection.scoring import Aggregate
from sia_runner.tasks.verifiers.answers import MAX_PREDICTION, SPOILED_NOTE, finite_number

Cells = tuple[str, ...]  # of one question: one for each answer column
JudgedCells = tuple[OutcomeKind, float, str]  # kind, value, the answer as it is shown
_EPSILON = sys.float_info.epsilon  # probabilities are clipped to [eps, 1 - eps], as scikit-learn does
_SUM_TOLERANCE = 1.1e-5  # of probabilities
_MAX_ERROR = 1e300  # a squared error stays a finite number
_ANSWERED = frozenset({OutcomeKind.CORRECT, OutcomeKind.PARTIAL, OutcomeKind.WRONG})


@dataclass(frozen=True, slots=True)
class Scale:
    """The range of all gold answers where they are numbers, else their classes."""

    low: float = 0.0
    high: float = 0.0
    classes: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Measure:
    """A metric of a whole set of answers.

    `judge(cells, gold, scale)` is the reason, in a few words, where an answer is invalid, whose value is then
    `worst(gold, scale)`. `aggregate` makes the metric of outcomes, given all gold answers by question; None: the mean
    of the values.
    """

    judge: Callable[[Cells, str, Scale], JudgedCells | str]
    worst: Callable[[str, Scale], float]
    aggregate: Callable[[Mapping[str, str]], Aggregate] | None
    numbers: bool  # are gold answers numbers?


def measure_outcomes(
    measure: Measure, answers: Mapping[str, Cells], spoiled: set[str], gold: Mapping[str, str], scale: Scale
) -> list[Outcome]:
    """Return one outcome per question of `gold`."""
    results = []
    for unit, truth in gold.items():
        cells = answers.get(unit, ())
        verdict = measure.judge(cells, truth, scale) if any(cell.strip() for cell in cells) else ""
        if isinstance(verdict, str):
            text = SPOILED_NOTE if unit in spoiled else ""
            if verdict:  # the answer is cut so that the reason fits behind it
                answer = ", ".join(cells).strip(", ")[: MAX_PREDICTION - len(verdict) - 3]
                text = f"{answer} ({verdict})"
            kind = OutcomeKind.INVALID_FORMAT if text else OutcomeKind.NO_ANSWER
            verdict = kind, measure.worst(truth, scale), text
        kind, value, text = verdict
        results.append(Outcome(unit, kind, value, text[:MAX_PREDICTION]))
    return results


def scale_of(measure: Measure, gold: Iterable[str], choices: Sequence[str]) -> Scale:
    """Return the scale of all gold answers of a task; `choices`: the classes in order, where the task names them."""
    if measure.numbers:
        numbers = [float(text) for text in gold]
        return Scale(min(numbers), max(numbers))
    return Scale(classes=choices or sorted(set(gold)))


def gold_fault(name: str, gold: str) -> str:
    """Return why the verifier cannot take this gold answer; empty where it can."""
    if name != "numeric" and not (name in MEASURES and MEASURES[name].numbers):
        return ""
    number = finite_number(gold)
    if number is None:
        return "is no finite number"
    if name == "rmsle" and number <= -1:
        return "is not above -1"
    return "is no whole number" if name == "quadratic_kappa" and not number.is_integer() else ""


def _mean_error(error: Callable[[float, float], float | None], *, root: bool = False) -> Measure:
    """Return a metric of numbers: the mean, or its root, of `error(answer, gold)`, which is None where undefined."""

    def judge(cells: Cells, gold: str, scale: Scale) -> JudgedCells | str:
        number = finite_number(cells[0])
        value = None if number is None else error(number, float(gold))
        if value is None:
            return "must be a finite number" if number is None else "must be above -1"
        return (OutcomeKind.PARTIAL if value else OutcomeKind.CORRECT), min(value, _MAX_ERROR), cells[0].strip()

    def worst(gold: str, scale: Scale) -> float:
        ends = (error(end, float(gold)) for end in (scale.low, scale.high))
        return max(value for value in ends if value is not None) or 1.0  # one and the same gold everywhere

    return Measure(judge, worst, (lambda gold: _root_of_mean) if root else None, numbers=True)


def _squared(answer: float, gold: float) -> float:
    return (answer - gold) * (answer - gold)


def _root_of_mean(results: Sequence[Outcome]) -> float:
    return math.sqrt(fmean(outcome.value for outcome in results))


def _log_loss(cells: Cells, gold: str, scale: Scale) -> JudgedCells | str:
    """Return the log loss of probabilities of scale.classes, which add up to 1 (as numpy's isclose allows for 1e-6)."""
    numbers = [finite_number(cell) for cell in cells]
    shares = [share for share in numbers if share is not None and 0 <= share <= 1]
    if len(shares) != len(scale.classes):
        return f"{len(shares)} of {len(scale.classes)} are probabilities: numbers from 0 to 1"
    if abs(sum(shares) - 1) > _SUM_TOLERANCE:
        return f"add up to {sum(shares):.7g}, must add up to 1 within {_SUM_TOLERANCE}"
    right, best = shares[scale.classes.index(gold)], max(range(len(shares)), key=shares.__getitem__)
    kind = OutcomeKind.CORRECT if scale.classes[best] == gold else OutcomeKind.WRONG
    loss = -math.log(min(max(right, _EPSILON), 1 - _EPSILON))
    return kind, loss, f"{scale.classes[best]} {shares[best]:.3g}"


def _rating(cells: Cells, gold: str, scale: Scale) -> JudgedCells | str:
    """Score a whole number within the range of gold: 1 less the squared share of the range that it is off."""
    number = finite_number(cells[0])
    if number is None or not number.is_integer() or not scale.low <= number <= scale.high:
        return "must be a whole number within the scale of the ratings"
    off = (number - float(gold)) / (scale.high - scale.low or 1.0)
    kind = OutcomeKind.PARTIAL if off else OutcomeKind.CORRECT
    return kind, 1 - off * off, str(int(number))


def _farthest(gold: str, scale: Scale) -> float:
    off = max(float(gold) - scale.low, scale.high - float(gold)) / (scale.high - scale.low or 1.0)
    return 1 - off * off


def _kappa(gold: Mapping[str, str]) -> Aggregate:
    """Return Cohen's kappa with quadratic weights: 1 less the squared error over that expected by chance; 0 without."""
    truth_of = {unit: float(text) for unit, text in gold.items()}
    low, high = min(truth_of.values()), max(truth_of.values())

    def rating(outcome: Outcome, truth: float) -> float:
        if outcome.kind in _ANSWERED:
            return float(outcome.prediction)
        return low if truth - low > high - truth else high  # the farthest off

    def kappa(results: Sequence[Outcome]) -> float:
        truths = [truth_of[outcome.unit] for outcome in results]
        answers = [rating(outcome, truth) for outcome, truth in zip(results, truths, strict=True)]
        centre, other = fmean(truths), fmean(answers)
        spread = fmean((truth - centre) ** 2 for truth in truths) + fmean((value - other) ** 2 for value in answers)
        chance = spread + (centre - other) ** 2
        error = fmean((value - truth) ** 2 for value, truth in zip(answers, truths, strict=True))
        return 1 - error / chance if chance else 0.0

    return kappa


def _class(cells: Cells, gold: str, scale: Scale) -> JudgedCells | str:
    answer = cells[0].strip()
    if answer not in scale.classes:
        return "must be one of the classes, spelled as they are"
    return (OutcomeKind.CORRECT, 1.0, answer) if answer == gold else (OutcomeKind.WRONG, 0.0, answer)


def _macro_f1(gold: Mapping[str, str]) -> Aggregate:
    """Return the mean over classes (in gold, or answered) of 2 TP / (2 TP + FP + FN)."""

    def macro_f1(results: Sequence[Outcome]) -> float:
        expected = Counter(gold[outcome.unit] for outcome in results)
        answered = Counter(outcome.prediction for outcome in results if outcome.kind in _ANSWERED)
        right = Counter(outcome.prediction for outcome in results if outcome.kind is OutcomeKind.CORRECT)
        silent = Counter(gold[outcome.unit] for outcome in results if outcome.kind not in _ANSWERED)
        # no answer counts as a wrong one with each other class, or it would be better than a wrong one
        wrongly = {name: silent.total() - silent[name] for name in expected.keys() | answered.keys()}
        return fmean(2 * right[name] / (expected[name] + answered[name] + more) for name, more in wrongly.items())

    return macro_f1


MEASURES = {
    "rmse": _mean_error(_squared, root=True),
    "rmsle": _mean_error(lambda a, gold: _squared(math.log1p(a), math.log1p(gold)) if a > -1 else None, root=True),
    "mae": _mean_error(lambda answer, gold: abs(answer - gold)),
    "log_loss": Measure(_log_loss, lambda gold, scale: -math.log(_EPSILON), None, numbers=False),
    "quadratic_kappa": Measure(_rating, _farthest, _kappa, numbers=True),
    "macro_f1": Measure(_class, lambda gold, scale: 0.0, _macro_f1, numbers=False),
}
