"""Which option does an answer name? "B", "(b)", "**Answer: B**", {"answer": "B"}, \\boxed{B}, "the answer is B since".

What counts is a definite statement, and the last one wins: whoever reasons aloud may change their mind. A mention is
none ("A is tempting", "not B", "if the answer is C"). Where nothing is stated, or the last statement names two options,
nothing is guessed. All repetitions below are bounded, so that time stays linear in a hostile text.
"""

import json
import re
import unicodedata
from collections.abc import Callable, Sequence
from functools import lru_cache

from sia_runner.records import OutcomeKind
from sia_runner.tasks.verifiers.common import CORRECT, INVALID, WRONG, Judge

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


def letter(choices: Sequence[str]) -> Judge:
    """One of `choices` (capital letters), found in free text. Nothing definite, or two at once: invalid_format."""
    find = finder("".join(choices))

    def judge(given: str, gold: str) -> tuple[OutcomeKind, float]:
        chosen = find(given)
        if chosen is None:
            return INVALID
        return CORRECT if chosen == gold else WRONG

    return judge


@lru_cache(maxsize=8)
def finder(letters: str) -> Callable[[str], str | None]:
    """A function from a text to the letter it names; None where it names none, or several."""
    either = f"[{letters}{letters.lower()}]"
    capital = f"(?:A{_ENDS}{_NO_ARTICLE}|[{letters.replace('A', '') or 'A'}]{_ENDS})"
    named = rf"{_OPEN}(?:{capital}|[{letters.lower()}]{_ENDS}{_SMALL_ENDS})"
    whole = re.compile(rf"{_OPEN}({either})[.,;:!]?{_CLOSE}[.,;:!]?\s?")
    labelled = re.compile(rf"{_OPEN}(?:(?i:option) )?(?:([{letters}]){_CLOSE}[.:)]|({either})\)){_CLOSE}(?:\s|$)")
    listed = re.compile(rf"{_CLOSE}{_LIST}{named}{_CLOSE}{_NO_LIST}")
    statements = [re.compile(rf"{before}({named})") for before in _BEFORE]
    statements.append(re.compile(rf"(?<![\w-])([{letters}]){_CLOSE}{_AFTER}"))
    listed_before = re.compile(rf"(?<!\w)[{letters}]{_CLOSE}{_LIST}{_OPEN}$")

    def last_statement(text: str) -> tuple[str | None, bool]:
        """(letter, was there a statement at all)."""
        found = [
            match
            for statement in statements
            for match in statement.finditer(text)
            if not _DENIED.search(text[max(0, match.start() - _SEEN_BEFORE) : match.start()])
        ]
        if not found:
            return None, False
        last = max(found, key=lambda match: match.end(1))
        before = text[max(0, last.start() - _SEEN_BEFORE) : last.start(1)]
        if listed.match(text, last.end(1)) or (last.re is statements[-1] and listed_before.search(before)):
            return None, True
        return last[1][-1].upper(), True

    def label(text: str) -> str | None:
        """The letter of a last line like "B" or "(B) 42 nm", if no other line is labelled with another letter."""
        lines = [whole.fullmatch(line) or labelled.match(line) for line in text.split("\n")]
        names = {next(filter(None, line.groups())).upper() for line in lines if line}
        return names.pop() if lines[-1] and len(names) == 1 else None

    def find(text: str) -> str | None:
        text = _plain(text)
        if match := whole.fullmatch(text):
            return match[1].upper()
        field = _json_field(text)
        if field is not None:
            text = _plain(field)
            if match := whole.fullmatch(text):
                return match[1].upper()
        chosen, stated = last_statement(text)
        return chosen if stated else label(text)

    return find


def _plain(text: str) -> str:
    """Unicode look-alikes made plain (Ｂ, Ⓑ, 𝐁), invisible characters left out, every run of blanks one character."""
    text = unicodedata.normalize("NFKC", text[-_TAIL:])[-_TAIL:]
    text = "".join(character for character in text if unicodedata.category(character) != "Cf")
    return re.sub(r"\s+", lambda blanks: "\n" if "\n" in blanks[0] else " ", text).strip()


def _json_field(text: str) -> str | None:
    """The answer in a JSON object that is the whole text, fenced or not; None where the text is no such object."""
    text = re.sub(r"^```\w{0,10}\s?|\s?```$", "", text)
    if not text.startswith("{"):
        return None
    try:
        given = json.loads(text)
    except (ValueError, RecursionError):
        return None
    fields = {str(key).strip().casefold().replace(" ", "_"): value for key, value in given.items()}
    value = next((fields[key] for key in _KEYS if key in fields), None)
    return value if isinstance(value, str) else None
