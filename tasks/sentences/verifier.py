"""The verifier of sentences: a text has to be one plain sentence, and to obey every rule of its question."""

import json
import re
import unicodedata
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path

from sia_runner.records import Outcome, OutcomeKind
from sia_runner.tasks.verifiers.submission import UnreadableError, read_answers

SHOWN = 300  # characters of a prediction that are kept
MOST_CHARACTERS, MOST_LETTERS, LEAST_WORDS, MOST_REPEATS = 400, 20, 4, 3
MOST_BYTES = 8 << 20
_PLAIN = str.maketrans({"’": "'", "‘": "'", "“": '"', "”": '"', "–": "-", "—": "-", "…": "."})
_SENTENCE = re.compile(r"""["']?[A-Z0-9][A-Za-z0-9 ,;:'"()-]*[.!?]["']?""")
_WORD = re.compile(r"[A-Za-z0-9]+(?:['-][A-Za-z0-9]+)*")


def verify(submission: Path, answers: Mapping[str, str]) -> list[Outcome]:
    """Return one outcome per question that was answered, or whose answer cannot be read."""
    try:
        texts, spoiled = read_answers(
            submission / "submission.csv", "id", "answer", answers, 20 * len(answers) + 10_000, MOST_BYTES
        )
    except FileNotFoundError:
        return []
    except UnreadableError as error:
        note = f"(submission.csv: {error})"
        return [Outcome(unit, OutcomeKind.INVALID_FORMAT, 0.0, note) for unit in answers]
    note = "(answered twice, or the row does not fit the header)"
    outcomes = [Outcome(unit, OutcomeKind.INVALID_FORMAT, 0.0, note) for unit in spoiled]
    for unit, text in texts.items():
        if text.strip():
            kind = judge(text, json.loads(answers[unit]))
            outcomes.append(Outcome(unit, kind, float(kind is OutcomeKind.CORRECT), text.strip()[:SHOWN]))
    return outcomes


def judge(text: str, rules: Mapping[str, str | int]) -> OutcomeKind:
    """Judge one text: correct if it is a sentence and obeys all rules."""
    words = words_of(text)
    if words is None:
        return OutcomeKind.INVALID_FORMAT
    return OutcomeKind.WRONG if broken(text, words, rules) else OutcomeKind.CORRECT


def words_of(text: str) -> list[str] | None:
    """Return the words of one plain sentence, in lower case; None if it is none.

    Letters of other alphabets that look like ours are no letters here. A sentence begins with a capital or a digit and
    ends with a mark, which none is inside; words have vowels, do not follow themselves and come up three times at most.
    """
    if len(text) > 4 * MOST_CHARACTERS:
        return None
    plain = plain_text(text)
    if len(plain) > MOST_CHARACTERS or not _SENTENCE.fullmatch(plain):
        return None
    words = _WORD.findall(plain.lower())
    repeated = any(words.count(word) > MOST_REPEATS for word in set(words)) or any(a == b for a, b in pairwise(words))
    odd = any(len(word) > MOST_LETTERS or not re.search(r"[aeiouy0-9]", word) for word in words)
    return None if len(words) < LEAST_WORDS or repeated or odd else words


def plain_text(text: str) -> str:
    """Return a text with plain quotes and dashes, without spaces around it."""
    return unicodedata.normalize("NFC", text).translate(_PLAIN).strip()


def broken(text: str, words: list[str], rules: Mapping[str, str | int]) -> list[str]:
    """Return the kinds of rules that a sentence with these words breaks."""
    topic = str(rules["topic"])
    obeyed = {"topic": topic in words or f"{topic}s" in words or f"{topic}'s" in words}
    checks = {
        "include": lambda value: value in words,
        "at_most": lambda value: len(words) <= value,
        "exactly": lambda value: len(words) == value,
        "first": lambda value: words[0] == value.lower(),
        "last": lambda value: words[-1] == value,
        "mark": lambda value: plain_text(text).rstrip("\"'").endswith(value),
        "avoid": lambda value: not any(value in word for word in words),
    }
    obeyed |= {kind: check(rules[kind]) for kind, check in checks.items() if kind in rules}
    return [kind for kind, holds in obeyed.items() if not holds]
