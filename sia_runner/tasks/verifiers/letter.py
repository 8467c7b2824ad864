"""The verifier `letter`: it finds the option that an answer names.

Examples: "B", "(b)", "**Answer: B**", {"answer": "B"}, \\\\boxed{B}, "the answer is B since". Only a definite statement
counts, and the last one wins, as a model that reasons aloud may change its mind. A mention does not count ("A is
tempting", "not B", "if the answer is C"). Where nothing is stated, or the last statement names two options, no option
is guessed. All repetitions below are bounded, so that time stays linear in a hostile text.
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
    """Accept one of `choices` (capital letters), found in free text.

    Nothing definite, or two letters at once, is invalid_format.
    """
    find = finder("".join(choices))

    def judge(answer: str, gold: str) -> tuple[OutcomeKind, float]:
        chosen = find(answer)
        if chosen is None:
            return INVALID
        return CORRECT if chosen == gold else WRONG

    return judge


@lru_cache(maxsize=8)
def finder(letters: str) -> Callable[[str], str | None]:
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
