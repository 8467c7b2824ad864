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

from sia_runner.records import Outcome, OutcomeKind

Judge = Callable[[str, str], tuple[OutcomeKind, float]]
MAX_PREDICTION = 300  # characters of a prediction that are kept

CORRECT, WRONG, INVALID = (OutcomeKind.CORRECT, 1.0), (OutcomeKind.WRONG, 0.0), (OutcomeKind.INVALID_FORMAT, 0.0)


def exact_match() -> Judge:
    """Compare texts, apart from spaces around them and Unicode normal form (NFC); case counts."""
    return lambda answer, gold: CORRECT if _normal_form(answer) == _normal_form(gold) else WRONG


def one_of_choices(choices: Sequence[str]) -> Judge:
    """Accept one of `choices` as the whole cell, in any case. "The answer is B" is no choice."""
    normalised = {_normal_form(name).casefold() for name in choices}

    def judge(answer: str, gold: str) -> tuple[OutcomeKind, float]:
        chosen = _normal_form(answer).casefold()
        if chosen not in normalised:
            return INVALID
        return CORRECT if chosen == _normal_form(gold).casefold() else WRONG

    return judge


def number_within(tolerance: float) -> Judge:
    """Accept a finite decimal number at most `tolerance` away."""

    def judge(answer: str, gold: str) -> tuple[OutcomeKind, float]:
        number = finite_number(answer)
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
    scores = {unit: score for unit in gold if unit in answers and (score := finite_number(answers[unit])) is not None}
    ranks = _mean_ranks(scores)
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


def _judge_answer(judge: Judge, unit: str, answer: str, spoiled: bool, gold: str) -> Outcome:
    if spoiled:
        return Outcome(unit, *INVALID, "(answered twice, or the row does not fit the header)")
    if not answer.strip():
        return Outcome(unit, OutcomeKind.NO_ANSWER, 0.0)
    return Outcome(unit, *judge(answer, gold), answer.strip()[:MAX_PREDICTION])


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


def letter_in_text(choices: Sequence[str]) -> Judge:
    """Accept one of `choices` (capital letters), found in free text.

    Nothing definite, or two letters at once, is invalid_format.
    """
    find = letter_finder("".join(choices))

    def judge(answer: str, gold: str) -> tuple[OutcomeKind, float]:
        chosen = find(answer)
        if chosen is None:
            return INVALID
        return CORRECT if chosen == gold else WRONG

    return judge


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

    def last_statement(text: str) -> tuple[str | None, bool]:
        """Return (letter, True where there was a statement at all)."""
        matches = [
            match
            for statement in statements
            for match in statement.finditer(text)
            if not _DENIED.search(text[max(0, match.start() - _SEEN_BEFORE) : match.start()])
        ]
        if not matches:
            return None, False
        final = max(matches, key=lambda match: match.end(1))
        before = text[max(0, final.start() - _SEEN_BEFORE) : final.start(1)]
        if listed.match(text, final.end(1)) or (final.re is statements[-1] and listed_before.search(before)):
            return None, True
        return final[1][-1].upper(), True

    def label(text: str) -> str | None:
        """Return the letter of a last line like "B" or "(B) 42 nm", unless another line has another letter."""
        lines = [whole_text.fullmatch(line) or labelled.match(line) for line in text.split("\n")]
        names = {next(filter(None, line.groups())).upper() for line in lines if line}
        return names.pop() if lines[-1] and len(names) == 1 else None

    def find(text: str) -> str | None:
        text = _simplified(text)
        if match := whole_text.fullmatch(text):
            return match[1].upper()
        field = _json_field(text)
        if field is not None:
            text = _simplified(field)
            if match := whole_text.fullmatch(text):
                return match[1].upper()
        chosen, stated = last_statement(text)
        return chosen if stated else label(text)

    return find


def _simplified(text: str) -> str:
    """Replace Unicode look-alikes (Ｂ, Ⓑ, 𝐁), drop invisible characters, and collapse blanks.

    Every run of blanks becomes a space or, if it has one, a line break.
    """
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
