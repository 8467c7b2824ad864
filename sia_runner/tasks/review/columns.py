"""Columns and ids that alone give the answer away: copies, codes, row numbers, marked texts."""

import base64
import bisect
import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence

from sia_runner.tasks.review.finding import Finding
from sia_runner.tasks.review.records import plain, read_table
from sia_runner.tasks.review.subject import Subject

_SURE = 0.95  # share of questions that one column answers, from which it holds the answer in disguise
_BEFORE = 6  # characters in front of an answer in a text
_FIX = "take it out of the data: the harness sees every column but the answer"
_CODES: dict[str, Callable[[bytes], str]] = {
    "a copy": lambda b: b.decode(),
    "the MD5": lambda b: hashlib.md5(b, usedforsecurity=False).hexdigest(),
    "the SHA-1": lambda b: hashlib.sha1(b, usedforsecurity=False).hexdigest(),
    "the SHA-256": lambda b: hashlib.sha256(b).hexdigest(),
    "the base64 form": lambda b: base64.b64encode(b).decode(),
    "the hexadecimal form": lambda b: b.hex(),
    "the reverse": lambda b: b.decode()[::-1],
}


def telling_columns(subject: Subject) -> Iterator[Finding]:
    """Find columns, and parts of ids, that give the answer by themselves."""
    if subject.gold_files:
        return
    view, spec = subject.attack_view, subject.spec
    train, questions = read_table(view.path / "train.csv"), read_table(view.path / "questions.csv")
    if not train:  # no training data while selecting: what stands in the view of the last test
        view = subject.test_view
        train, questions = read_table(view.path / "train.csv"), read_table(view.path / "questions.csv")
    gold = [subject.units.answers[view.keys[row[spec.columns.id]]] for row in questions]
    train_answers = [row[spec.columns.answer] for row in train]
    _, commonest = Counter(gold).most_common(1)[0]
    threshold = max(_SURE, commonest / len(gold) + 0.05)
    for column in subject.units.columns:
        cells, before = [row[column] for row in questions], [row[column] for row in train]
        where = f"column {column}"
        if code := _coded(cells, gold):
            yield Finding("answer-in-column", f"it is {code} of the answer", where, _FIX)
        elif mark := _marked(cells, gold):
            yield Finding("answer-in-column", f"the answer follows {mark!r} in nearly every text", where, _FIX)
        elif (share := _lookup_share(before, train_answers, cells, gold)) >= threshold:
            problem = (
                f"its value alone gives {share:.0%} of the answers (always the commonest: {commonest / len(gold):.0%})"
            )
            yield Finding("answer-in-column", problem, where, _FIX)
    if spec.columns.grouped_ids:
        yield from _telling_ids(spec.columns.id, train, questions, train_answers, gold)


def _telling_ids(
    column: str,
    train: Sequence[dict[str, str]],
    questions: Sequence[dict[str, str]],
    train_answers: list[str],
    gold: list[str],
) -> Iterator[Finding]:
    """Check the part of a grouped id behind the group, which views keep as it is in the data."""
    suffixes = [row[column].partition("_")[2] for row in train], [row[column].partition("_")[2] for row in questions]
    share = _lookup_share(suffixes[0], train_answers, suffixes[1], gold)
    commonest_share = Counter(gold).most_common(1)[0][1] / len(gold)
    if share >= max(commonest_share + 0.2, 0.5 * (1 + commonest_share)):
        constant = f"always the commonest: {commonest_share:.0%}"
        problem = f"what follows the group in an id gives {share:.0%} of the answers ({constant})"
        yield Finding("answer-in-id", problem, f"column {column}", "number the members of a group in no special order")


def _coded(cells: Sequence[str], gold: Sequence[str]) -> str:
    """Return the way in which this column encodes the answer; empty where it does not."""
    for name, code in _CODES.items():
        same = sum(
            any(plain(code(form.encode(errors="replace"))) == plain(cell) for form in (answer, answer.casefold()))
            for cell, answer in zip(cells, gold, strict=True)
        )
        if same >= _SURE * len(gold) and len(set(gold)) > 1:
            return name
    return ""


def _marked(cells: Sequence[str], gold: Sequence[str]) -> str:
    """Return the characters that precede the answer in nearly all texts, and precede no other answer."""
    others = sorted(set(gold))
    if len(others) < 2:
        return ""
    before: Counter[str] = Counter()
    for cell, answer in zip(cells, gold, strict=True):
        before.update({cell[at - _BEFORE : at] for at in _places(cell, answer) if at >= _BEFORE})
    mark, count = before.most_common(1)[0] if before else ("", 0)
    if count < 0.9 * len(gold):
        return ""
    wrong = sum(
        any(mark + other in cell and not answer.startswith(other) for other in others if other != answer)
        for cell, answer in zip(cells, gold, strict=True)
    )
    return mark if wrong < 0.1 * len(gold) else ""


def _places(cell: str, answer: str) -> Iterator[int]:
    at = cell.find(answer)
    while at >= 0:
        yield at
        at = cell.find(answer, at + 1)


def _lookup_share(
    train_cells: Sequence[str], train_answers: Sequence[str], cells: Sequence[str], gold: Sequence[str]
) -> float:
    """Return the share of questions answered by their value in train, or by the nearest number in train.

    A value's answer is its commonest one.
    """
    if not train_cells:
        return 0.0
    by_value: dict[str, Counter[str]] = defaultdict(Counter)
    for cell, answer in zip(train_cells, train_answers, strict=True):
        by_value[cell][answer] += 1
    exact = [by_value[cell].most_common(1)[0][0] if cell in by_value else None for cell in cells]
    share = sum(looked_up == answer for looked_up, answer in zip(exact, gold, strict=True)) / len(gold)
    return max(share, _by_nearest(train_cells, train_answers, cells, gold))


def _by_nearest(
    train_cells: Sequence[str], train_answers: Sequence[str], cells: Sequence[str], gold: Sequence[str]
) -> float:
    try:
        ordered = sorted((float(cell), answer) for cell, answer in zip(train_cells, train_answers, strict=True))
        values = [float(cell) for cell in cells]
    except ValueError:
        return 0.0
    right = 0
    for value, answer in zip(values, gold, strict=True):
        index = bisect.bisect_left(ordered, (value, ""))
        nearest = min(ordered[max(0, index - 1) : index + 1], key=lambda pair: abs(pair[0] - value))
        right += nearest[1] == answer
    return right / len(gold)
