r"""Verifiers of one answer, by name: `exact_match`, `choice`, `numeric`, `letter`; and the ranks behind the AUC.

A `Judge` returns (kind, value) for a prediction that is not empty. `letter` finds the option that an answer names: "B",
"(b)", "**Answer: B**", {"answer": "B"}, \boxed{B}, "the answer is B since". Only a definite statement counts, and the
last one wins, as a model that reasons aloud may change its mind. A mention does not count ("A is tempting", "not B",
"if the answer is C"). Where nothing is stated, or the last statement names two options, no option is guessed. All
repetitions in its patterns are bounded, so that time stays linear in a hostile text.
"""

import json
import math
import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from itertools import groupby
from typing import TypeVar

from sia_runner.records import Outcome, OutcomeKind

Judge = Callable[[str, str], tuple[OutcomeKind, float]]
MAX_PREDICTION = 300  # characters of a prediction that are kept
SPOILED_NOTE = "(answered twice, or the row does not fit the header)"  # in place of a prediction
_INVALID = (OutcomeKind.INVALID_FORMAT, 0.0)
T = TypeVar("T")


def exact_match() -> Judge:
    """Compare texts, apart from spaces around them and Unicode normal form (NFC); case counts."""
    return _judge(_normal_form, lambda text, gold: text == _normal_form(gold))


def one_of_choices(choices: Sequence[str]) -> Judge:
    """Accept one of `choices` as the whole cell, in any case. "The answer is B" is no choice."""
    keys = {_normal_form(name).casefold() for name in choices}
    return _judge(
        lambda answer: key if (key := _normal_form(answer).casefold()) in keys else None,
        lambda key, gold: key == _normal_form(gold).casefold(),
    )


def number_within(tolerance: float) -> Judge:
    """Accept a finite decimal number at most `tolerance` away."""
    return _judge(finite_number, lambda number, gold: abs(number - float(gold)) <= tolerance)


def letter_in_text(choices: Sequence[str]) -> Judge:
    """Accept one of `choices` (capital letters), found in free text; nothing definite, or two at once, is invalid."""
    return _judge(letter_finder("".join(choices)), lambda letter, gold: letter == gold)


def judge_named(name: str, choices: Sequence[str], tolerance: float) -> Judge:
    """Return the judge that metric.verifier names."""
    of_choices = {"choice": one_of_choices, "letter": letter_in_text}
    if name in of_choices:
        return of_choices[name](choices)
    return {"exact_match": exact_match(), "numeric": number_within(tolerance)}[name]


def _judge(read: Callable[[str], T | None], is_right: Callable[[T, str], bool]) -> Judge:
    """Return a judge of what `read` takes from an answer, where None is an invalid one."""

    def judge(answer: str, gold: str) -> tuple[OutcomeKind, float]:
        value = read(answer)
        if value is None:
            return _INVALID
        return (OutcomeKind.CORRECT, 1.0) if is_right(value, gold) else (OutcomeKind.WRONG, 0.0)

    return judge


def judge_all(judge: Judge, answers: Mapping[str, str], spoiled: set[str], gold: Mapping[str, str]) -> list[Outcome]:
    """Return one outcome per question of `gold`: the denominator never depends on what was answered."""
    outcomes = []
    for unit, truth in gold.items():
        answer = answers.get(unit, "")
        if unit in spoiled:
            outcomes.append(Outcome(unit, *_INVALID, SPOILED_NOTE))
        elif not answer.strip():
            outcomes.append(Outcome(unit, OutcomeKind.NO_ANSWER, 0.0))
        else:
            outcomes.append(Outcome(unit, *judge(answer, truth), answer.strip()[:MAX_PREDICTION]))
    return outcomes


def rank_scores(answers: Mapping[str, str], spoiled: set[str], gold: Mapping[str, str], positive: str) -> list[Outcome]:
    """Return outcomes for the AUC: `value` is the rank of the score among all valid ones, in (0, 1); ties share theirs.

    A row without a valid score gets the worst rank there is for its gold answer: leaving a question out never helps.
    """
    scores = {unit: score for unit in gold if unit in answers and (score := finite_number(answers[unit])) is not None}
    ranks: dict[str, float] = {}
    for _, tied in groupby(sorted(scores, key=scores.__getitem__), key=scores.__getitem__):
        units, below = list(tied), len(ranks)
        ranks |= dict.fromkeys(units, (2 * below + 1 + len(units)) / 2 / (len(scores) + 1))
    outcomes = []
    for unit, truth in gold.items():
        text = answers.get(unit, "").strip()[:MAX_PREDICTION]
        if unit in ranks:
            outcomes.append(Outcome(unit, OutcomeKind.PARTIAL, ranks[unit], text))
        else:
            kind = OutcomeKind.INVALID_FORMAT if text or unit in spoiled else OutcomeKind.NO_ANSWER
            outcomes.append(Outcome(unit, kind, 0.0 if truth == positive else 1.0, text))
    return outcomes


def finite_number(text: str) -> float | None:
    """Return the number in the text; None for no number, NaN and infinity. Python's 1_000 is no number here."""
    try:
        number = float(text) if "_" not in text else math.nan
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _normal_form(text: str) -> str:
    return unicodedata.normalize("NFC", text.strip())


_TAIL = 20_000  # characters looked at, from the end: there the last statement stands
_KEYS = ("final_answer", "answer", "correct_answer", "choice", "option", "letter")  # of a JSON answer

_OPEN = r"""(?:[\s"'“”‘’`*_~$([{<]|\\[(\[]|\\(?:text|textbf|mathrm|mathbf|mathsf|boxed|bf|rm)\b){0,12}"""
_CLOSE = r"""["'“”‘’`*_~$)\]}>]{0,8}"""
_ENDS = r"""(?!\w|['’]\w|[-–+^*=]\w|\s?=)"""  # D-glucose, A's, C60 and A = 5 are no options
# A capital A before any other small word is an article: "A because it is larger", but not "A larger one".
_NO_ARTICLE = (
    "(?! (?!(?:because|since|as|for|due|given|based|and|or|but|with|by|which|so|in|on|at|from|when|where|while|although"
    "|though|after|if|per|via|using|according)[^a-z])[a-z])"
)
_SMALL_ENDS = r"""(?=\s?$|\n|["'”’`*_~$)\]}>.,;:!?])"""  # "is b." and "is (b)", but not "is a good idea"

_ABOUT = r"(?: (?:to|for|of|the|this|that|question|problem|above|below|here|\d{1,4})){0,6}"
_MARKS = r"""["'*_`~)\]\s]{0,6}"""
_IS = r"(?:\s?(?:[:>=→–—-]|->|=>|is\b|would be\b|will be\b|must be\b|should be\b|has to be\b)){1,3}"
_NAMED = r"""[\s"'*_]{0,6}(?:\b(?:the )?(?:correct |right |best )?(?:answer|option|choice|letter)\b[\s:]{0,2})?"""
_BEFORE = (  # what makes the letter after it a statement
    rf"(?i:(?<![a-z])(?:answer|choice|option)(?:[ _](?:letter|choice|option))?{_ABOUT}{_MARKS}{_IS}{_NAMED})",
    rf"(?i:\b(?:choose|chose|choosing|pick|select|selected|go with|going with)\b{_NAMED})",
    r"\\(?:boxed|fbox)\s?\{",
)
_AFTER = r"\s(?i:is (?:the )?(?:most )?(?:single )?(?:correct|right|best|answer)\b)"
_LIST = r"\s?(?i:,? ?(?:and/or|and|or)\b(?: possibly| maybe| perhaps)?(?: option)?|[,/&|])"
_NO_LIST = r"(?! (?:is|are|was|were|would|can|could|has|have|does)\b)"  # "B, and D is wrong" names B alone
_DENIED = re.compile(
    r"(?i:(?:\bnot|n['’]t|\bnever|\bcannot|\bneither|\bif|\bwhether|\bunless|\bwrong|\bincorrect|\bfalse)"
    r"""[\s"'*_(]{1,4}(?:(?:think|believe|say|that|the|final|correct|right|best|only|would|i|we|you|be|is|option)\s){0,4})$"""
)
_SEEN_BEFORE = 60  # characters before a statement in which it may be denied


@lru_cache(maxsize=8)
def letter_finder(letters: str) -> Callable[[str], str | None]:
    """Return a function from a text to the letter it names; None where it names none, or several."""
    either = f"[{letters}{letters.lower()}]"
    capital = f"(?:A{_ENDS}{_NO_ARTICLE}|[{letters.replace('A', '') or 'A'}]{_ENDS})"
    named = rf"{_OPEN}(?:{capital}|[{letters.lower()}]{_ENDS}{_SMALL_ENDS})"
    whole_text = re.compile(rf"{_OPEN}({either})[.,;:!]?{_CLOSE}[.,;:!]?\s?")
    labelled = re.compile(rf"{_OPEN}(?:(?i:option) )?(?:([{letters}]){_CLOSE}[.:)]|({either})\)){_CLOSE}(?:\s|$)")
    listed = re.compile(rf"{_CLOSE}{_LIST}{named}{_CLOSE}{_NO_LIST}")
    statements = [re.compile(rf"{before}({named})") for before in _BEFORE]
    statements.append(re.compile(rf"(?<![\w-])([{letters}]){_CLOSE}{_AFTER}"))
    listed_before = re.compile(rf"(?<!\w)[{letters}]{_CLOSE}{_LIST}{_OPEN}$")

    def last_statement(text: str) -> str | None:
        """Return the letter of the last statement, "" where it names several, None where there is no statement."""
        matches = [
            match
            for statement in statements
            for match in statement.finditer(text)
            if not _DENIED.search(text[max(0, match.start() - _SEEN_BEFORE) : match.start()])
        ]
        if not matches:
            return None
        final = max(matches, key=lambda match: match.end(1))
        before = text[max(0, final.start() - _SEEN_BEFORE) : final.start(1)]
        if listed.match(text, final.end(1)) or (final.re is statements[-1] and listed_before.search(before)):
            return ""
        return final[1][-1].upper()

    def label(text: str) -> str | None:
        """Return the letter of a last line like "B" or "(B) 42 nm", unless another line has another letter."""
        lines = [whole_text.fullmatch(line) or labelled.match(line) for line in text.split("\n")]
        names = {next(filter(None, line.groups())).upper() for line in lines if line}
        return names.pop() if lines[-1] and len(names) == 1 else None

    def find(text: str) -> str | None:
        text = _simplified(text)
        match = whole_text.fullmatch(text)
        if not match and (field := _json_field(text)) is not None:
            text = _simplified(field)
            match = whole_text.fullmatch(text)
        if match:
            return match[1].upper()
        stated = last_statement(text)
        return label(text) if stated is None else stated or None

    return find


def _simplified(text: str) -> str:
    """Replace Unicode look-alikes (Ｂ, Ⓑ, 𝐁), drop invisible characters, make blanks one space or line break."""
    text = unicodedata.normalize("NFKC", text[-_TAIL:])[-_TAIL:]
    text = "".join(character for character in text if unicodedata.category(character) != "Cf")
    return re.sub(r"\s+", lambda blanks: "\n" if "\n" in blanks[0] else " ", text).strip()


def _json_field(text: str) -> str | None:
    """Return the answer in a JSON object that is the whole text, fenced or not; None where it is no such object."""
    text = re.sub(r"^```\w{0,10}\s?|\s?```$", "", text)
    if not text.startswith("{"):
        return None
    try:
        parsed = json.loads(text)
    except (ValueError, RecursionError):
        return None
    fields = {str(key).strip().casefold().replace(" ", "_"): value for key, value in parsed.items()}
    value = next((fields[key] for key in _KEYS if key in fields), None)
    return value if isinstance(value, str) else None


def auc(outcomes: Sequence[Outcome], gold: Mapping[str, str], positive: str) -> float:
    """Return P(a positive scores above a negative), ties half; .5 where one of the two classes does not occur."""
    import numpy as np

    values = np.array([outcome.value for outcome in outcomes])
    is_positive = np.array([gold[outcome.unit] == positive for outcome in outcomes], dtype=bool)
    positives = int(is_positive.sum())
    pairs = positives * (len(outcomes) - positives)
    if not pairs:
        return 0.5
    _, group_index, count = np.unique(values, return_inverse=True, return_counts=True)
    mean_rank = np.cumsum(count) - (count - 1) / 2
    return float((mean_rank[group_index][is_positive].sum() - positives * (positives + 1) / 2) / pairs)
