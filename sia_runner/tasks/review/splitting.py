"""Splits that let a harness look answers up, and splits too small to tell a gain from luck."""

import math
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import combinations
from pathlib import Path

from sia_runner.tasks.near import near_duplicate_groups
from sia_runner.tasks.protocol import Round
from sia_runner.tasks.review.finding import Finding, Note
from sia_runner.tasks.review.subject import Subject

_FEWEST = 15  # questions; below, a standard error may be above 13 points
_WORTH = 0.05  # of the score, gained over a constant by looking questions up that are in train
_GROUPED = re.compile(r"(.+?)[-_./:](\w{1,4})")


def few_questions(subject: Subject, note: Note) -> Iterator[Finding]:
    """Find splits with too few questions, and note the standard error on val."""
    splits = subject.task.splits()
    for name in ("val", "test"):
        n = len(splits[name])
        if n < _FEWEST:
            problem = f"{n} {name} questions: the standard error of a share is up to {50 / math.sqrt(n):.0f} points"
            fix = f"label more questions, or give {name} a larger share (splits.folds makes all that is not test val)"
            yield Finding("too-few", problem, f"splits.{name}", fix)
    error = 50 / math.sqrt(len(splits["val"]))
    note(f"{_sizes(splits)}; on val the standard error of a share is at most {error:.1f} points")


def leaking_splits(subject: Subject, cache: Path) -> Iterator[Finding]:
    """Find questions that nearly stand in train, with an answer that is right for them too."""
    if not subject.gold_files:
        texts = {unit: subject.units.content(unit) for unit in subject.units.answers}
        near = {unit: number for number, group in enumerate(near_duplicate_groups(texts, cache)) for unit in group}
        fix = "remove the doubles, or give each family of questions one group of ids (columns.grouped_ids)"
        yield from _leaks(subject, near.get, "near-duplicates", "that nearly stand in train, answer included", fix)
    if not subject.spec.columns.grouped_ids:
        groups = _groups(subject)
        fix = "set columns.grouped_ids: true, with ids like 0013_02"
        yield from _leaks(subject, groups.get, "groups-cut", "whose id names a group that train answers", fix)


def _leaks(subject: Subject, key: Callable[[str], object], code: str, what: str, fix: str) -> Iterator[Finding]:
    folds: Mapping[str, Round] = {"val": subject.select_fold, "test": subject.test_fold}
    for name, fold in folds.items():
        of_split = set(subject.task.splits()[name])
        questions = [unit for unit in fold.questions if unit in of_split]
        related, right, usual = _lookup_counts(subject, key, fold.train, questions)
        worth = (right - usual * related) / len(questions)
        if worth >= _WORTH:
            count = f"{related} of {len(questions)} {name} questions"
            problem = f"{count} {what}: looking them up is worth {100 * worth:.0f} points"
            yield Finding(code, problem, f"split {name}", fix)


def _lookup_counts(
    subject: Subject, key: Callable[[str], object], train: Sequence[str], questions: Sequence[str]
) -> tuple[int, int, float]:
    """Count the questions that can be looked up in train.

    Return (questions with a relative in train, those for which the relatives' commonest answer is right, share of the
    commonest answer among all questions).
    """
    answers = subject.units.answers
    by_group: dict[object, Counter[str]] = defaultdict(Counter)
    for unit in train:
        if (group := key(unit)) is not None:
            by_group[group][answers[unit]] += 1
    related = [unit for unit in questions if key(unit) is not None and key(unit) in by_group]
    right = sum(answers[unit] == by_group[key(unit)].most_common(1)[0][0] for unit in related)
    usual = Counter(answers[unit] for unit in questions).most_common(1)[0][1] / len(questions)
    return len(related), right, usual


def _groups(subject: Subject) -> dict[str, str]:
    """Return question -> group, where ids look like group and member and groups share answers more than others do."""
    answers = subject.units.answers
    group_by_unit = {unit: match[1] for unit in answers if (match := _GROUPED.fullmatch(unit.removeprefix("test:")))}
    members: dict[str, list[str]] = defaultdict(list)
    for unit, group in group_by_unit.items():
        members[group].append(unit)
    pairs = [pair for group in members.values() if len(group) <= 50 for pair in combinations(group, 2)]
    if len(group_by_unit) < 0.9 * len(answers) or len(pairs) < 20:
        return {}
    counts = Counter(answers.values())
    chance = sum((count / len(answers)) ** 2 for count in counts.values())
    agree = sum(answers[first] == answers[second] for first, second in pairs) / len(pairs)
    return group_by_unit if agree > chance + 0.2 else {}


def _sizes(splits: Mapping[str, Sequence[str]]) -> str:
    return ", ".join(f"{len(units):,} {name}" for name, units in splits.items() if units)
