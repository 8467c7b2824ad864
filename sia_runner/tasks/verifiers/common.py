"""Verifiers of one answer, by name.

A `Judge` returns (kind, value) for a prediction that is not empty.
"""

import math
import unicodedata
from collections.abc import Callable, Mapping, Sequence

from sia_runner.records import Outcome, OutcomeKind

Judge = Callable[[str, str], tuple[OutcomeKind, float]]
SHOWN = 300  # characters of a prediction that are kept

CORRECT, WRONG, INVALID = (OutcomeKind.CORRECT, 1.0), (OutcomeKind.WRONG, 0.0), (OutcomeKind.INVALID_FORMAT, 0.0)


def exact_match() -> Judge:
    """Compare texts, apart from spaces around them and Unicode normal form (NFC); case counts."""
    return lambda answer, gold: CORRECT if _plain(answer) == _plain(gold) else WRONG


def choice(choices: Sequence[str]) -> Judge:
    """Accept one of `choices` as the whole cell, in any case. "The answer is B" is no choice."""
    normalised = {_plain(name).casefold() for name in choices}

    def judge(answer: str, gold: str) -> tuple[OutcomeKind, float]:
        chosen = _plain(answer).casefold()
        if chosen not in normalised:
            return INVALID
        return CORRECT if chosen == _plain(gold).casefold() else WRONG

    return judge


def numeric(tolerance: float) -> Judge:
    """Accept a finite decimal number at most `tolerance` away."""

    def judge(answer: str, gold: str) -> tuple[OutcomeKind, float]:
        number = finite(answer)
        if number is None:
            return INVALID
        return CORRECT if abs(number - float(gold)) <= tolerance else WRONG

    return judge


def judge_all(judge: Judge, answers: Mapping[str, str], spoiled: set[str], gold: Mapping[str, str]) -> list[Outcome]:
    """Return one outcome per question of `gold`: the denominator never depends on what was answered."""
    return [_judge_answer(judge, unit, answers.get(unit, ""), unit in spoiled, gold[unit]) for unit in gold]


def rank_scores(answers: Mapping[str, str], spoiled: set[str], gold: Mapping[str, str], positive: str) -> list[Outcome]:
    """Return outcomes for the AUC: `value` is the rank of the score among all valid ones, in (0, 1).

    Ties share their mean rank. A row without a valid score gets the worst rank there is for its gold answer (0 for a
    positive, 1 for a negative): leaving a question out never helps. The AUC of the ranks is that of the scores.
    """
    scores = {unit: score for unit in gold if unit in answers and (score := finite(answers[unit])) is not None}
    ranks = _mean_ranks(scores)
    outcomes = []
    for unit, truth in gold.items():
        text = answers.get(unit, "").strip()[:SHOWN]
        if unit in ranks:
            outcomes.append(Outcome(unit, OutcomeKind.PARTIAL, ranks[unit], text))
        else:
            kind = OutcomeKind.INVALID_FORMAT if text or unit in spoiled else OutcomeKind.NO_ANSWER
            outcomes.append(Outcome(unit, kind, 0.0 if truth == positive else 1.0, text))
    return outcomes


def finite(text: str) -> float | None:
    """Return the number in the text; None for no number, NaN and infinity. Python's 1_000 is no number here."""
    try:
        number = float(text) if "_" not in text else math.nan
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _judge_answer(judge: Judge, unit: str, answer: str, spoiled: bool, gold: str) -> Outcome:
    if spoiled:
        return Outcome(unit, *INVALID, "(answered twice, or the row does not fit the header)")
    if not answer.strip():
        return Outcome(unit, OutcomeKind.NO_ANSWER, 0.0)
    return Outcome(unit, *judge(answer, gold), answer.strip()[:SHOWN])


def _mean_ranks(scores: Mapping[str, float]) -> dict[str, float]:
    ordered = sorted(scores, key=scores.__getitem__)
    ranks: dict[str, float] = {}
    start = 0
    while start < len(ordered):
        end = start
        while end < len(ordered) and scores[ordered[end]] == scores[ordered[start]]:
            end += 1
        mean = (start + 1 + end) / 2 / (len(ordered) + 1)
        ranks.update(dict.fromkeys(ordered[start:end], mean))
        start = end
    return ranks


def _plain(text: str) -> str:
    return unicodedata.normalize("NFC", text.strip())
