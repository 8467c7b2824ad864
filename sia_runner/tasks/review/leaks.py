"""Gold answers that a harness, or whoever writes one, can read or look up: in files, columns, ids and other splits."""

import base64
import bisect
import hashlib
import math
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import combinations
from pathlib import Path

from sia_runner.store.run_directory import sha256_of
from sia_runner.tasks.near_duplicates import near_duplicate_groups
from sia_runner.tasks.review.subject import (
    AddNote,
    CellSet,
    TaskFinding,
    TaskUnderReview,
    comparable_cell,
    read_table,
    rows_of_file,
    rows_of_text,
)

_MIN_NAMING_TEXT = 12  # characters from which a field names its question
_MIN_QUOTED_TEXT = 20  # from which a field standing in task.md is that question's, not a phrase
_SHARE = 0.05  # of the questions; a few coincide by chance
_PROGRAMS = ("reference", "recipes", "with_model")
_KEEP_OUT = "give harnesses only what may be known while answering"
_MIN_TELLING_SHARE = 0.95  # share of questions that one column answers, from which it holds the answer in disguise
_MARK_LENGTH = 6  # characters in front of an answer in a text
_CODES: dict[str, Callable[[bytes], str]] = {
    "a copy": lambda b: b.decode(),
    "the MD5": lambda b: hashlib.md5(b, usedforsecurity=False).hexdigest(),
    "the SHA-1": lambda b: hashlib.sha1(b, usedforsecurity=False).hexdigest(),
    "the SHA-256": lambda b: hashlib.sha256(b).hexdigest(),
    "the base64 form": lambda b: base64.b64encode(b).decode(),
    "the hexadecimal form": lambda b: b.hex(),
    "the reverse": lambda b: b.decode()[::-1],
}
_MIN_QUESTIONS = 15  # questions; below, a standard error may be above 13 points
_MIN_GAIN = 0.05  # of the score, gained over a constant by looking questions up that are in train
_GROUPED = re.compile(r"(.+?)[-_./:](\w{1,4})")


def gold_in_view(subject: TaskUnderReview) -> Iterator[TaskFinding]:
    """Compare further files of the view with all answers, and files of the view with answers that are files."""
    spec = subject.spec
    answers = {spec.data.answers, spec.data.labelled, spec.data.test} - {None}
    secret = {sha256_of(subject.source / str(name)): name for name in answers}
    for name, path in spec.data.extra.items():
        where = f"task.data.extra {name}"
        same = secret.get(sha256_of(subject.source / path))
        if same:
            yield TaskFinding("gold-in-view", f"every view holds a copy of {same}", where, _KEEP_OUT)
        elif telling := _telling_rows(subject, rows_of_file(subject.source / path)):
            yield TaskFinding("gold-in-view", f"its rows tell the answers of {telling}", where, _KEEP_OUT)
    for view in (subject.attack_view, subject.test_view) if subject.gold_files else ():
        gold = {sha256_of(subject.source / subject.units.answers[unit]) for unit in view.keys.values()}
        for path in sorted(view.path.rglob("*")):
            if path.is_file() and sha256_of(path) in gold:
                where = path.relative_to(view.path).as_posix()
                yield TaskFinding("gold-in-view", "a file of the view is the gold of a question", where, _KEEP_OUT)


def gold_in_programs(subject: TaskUnderReview) -> Iterator[TaskFinding]:
    """Check the files that every harness starts with, which must not tell answers of dev, val and test."""
    for folder in _PROGRAMS:
        for path in sorted((subject.task.folder / folder).rglob("*")):
            if path.is_file() and not path.is_symlink() and "__pycache__" not in path.parts:
                telling = _telling_rows(subject, rows_of_file(path))
                if telling:
                    where = path.relative_to(subject.task.folder).as_posix()
                    yield TaskFinding("gold-in-program", f"its lines tell the answers of {telling}", where, _KEEP_OUT)


def gold_in_description(subject: TaskUnderReview) -> Iterator[TaskFinding]:
    """Check task.md, which proposers and harnesses read."""
    text = subject.task.description
    fix = "take examples from rows of your own making"
    questions = _ever_asked(subject)
    quoted = sum(any(field in text for field in _long_fields(subject, unit, _MIN_QUOTED_TEXT)) for unit in questions)
    if quoted:
        yield TaskFinding("questions-in-task-md", f"it quotes {quoted} questions of dev, val or test", "task.md", fix)
    hits, chance, n = _count_pairs(subject, rows_of_text(text.encode(), "task.md"))
    if hits >= 5 and hits > 2 * chance + 3:
        yield TaskFinding("answers-in-task-md", f"it tells the answers of {hits} of {n} questions", "task.md", fix)
    elif stated := _free_answers(subject, text):
        yield TaskFinding("answers-in-task-md", f"it states {stated}", "task.md", fix)


def _free_answers(subject: TaskUnderReview, text: str) -> str:
    """Describe answers in task.md that only one question has; empty for few, which may be the task's vocabulary."""
    counts = Counter(comparable_cell(subject.units.answers[unit]) for unit in _ever_asked(subject))
    own = [answer for answer, count in counts.items() if count == 1 and len(answer) > 1]
    cells = {cell for record in rows_of_text(text.encode(), "task.md") for cell in record}
    long = [answer for answer in own if len(answer) >= _MIN_NAMING_TEXT and answer in text.casefold()]
    stated = cells.intersection(own).union(long)
    if subject.gold_files or len(stated) < max(5, 0.3 * len(own)):
        return ""
    return f"{len(stated)} of the {len(own)} answers that only one question has"


def _telling_rows(subject: TaskUnderReview, rows: Iterable[CellSet]) -> str:
    """Return `97 of 120 questions` where rows hold questions with their answers far more often than by chance."""
    hits, chance, n = _count_pairs(subject, rows)
    spread = 3 * (chance / n * (1 - chance / n) / n) ** 0.5 if n else 0.0
    return f"{hits} of {n} questions" if n and hits / n - chance / n >= max(_SHARE, spread) else ""


def _count_pairs(subject: TaskUnderReview, rows: Iterable[CellSet]) -> tuple[int, int, int]:
    """Return (questions that share a row with their answer, the same with another's answer, all questions)."""
    units = _ever_asked(subject)
    if subject.gold_files:
        return 0, 0, len(units)
    named: dict[str, list[int]] = defaultdict(list)  # id in the data, or long field -> indices of questions
    for index, unit in enumerate(units):
        fields = _long_fields(subject, unit, _MIN_NAMING_TEXT)
        for name in set(map(comparable_cell, [unit.removeprefix("test:"), *fields])):
            named[name].append(index)
    answers = [comparable_cell(subject.units.answers[unit]) for unit in units]
    true, other = set[int](), set[int]()
    for row in rows:
        for cell in row:
            indices = named.get(cell, [])
            for index in indices if len(indices) <= 3 else []:
                rest = row - {cell}
                if answers[index] in rest:
                    true.add(index)
                if answers[index - len(units) // 2] in rest:
                    other.add(index)
    return len(true), len(other), len(units)


def _long_fields(subject: TaskUnderReview, unit: str, min_length: int) -> list[str]:
    return [field for field in subject.units.fields[unit] if len(field.strip()) >= min_length]


def _ever_asked(subject: TaskUnderReview) -> list[str]:
    splits = subject.task.splits()
    return [*splits["dev"], *splits["val"], *splits["test"]]


def telling_columns(subject: TaskUnderReview) -> Iterator[TaskFinding]:
    """Find columns, and parts of ids, that give the answer by themselves."""
    if subject.gold_files:
        return
    view, columns = subject.attack_view, subject.spec.columns
    if not subject.select_fold.train:  # no training data while selecting: what stands in the view of the last test
        view = subject.test_view
    train, questions = read_table(view.path / "train.csv"), read_table(view.path / "questions.csv")
    gold = [subject.units.answers[view.keys[row[columns.id]]] for row in questions]
    commonest = Counter(gold).most_common(1)[0][1] / len(gold)
    for column in subject.units.columns:
        cells, problem = [row[column] for row in questions], ""
        if code := _coded(cells, gold):
            problem = f"it is {code} of the answer"
        elif mark := _marked(cells, gold):
            problem = f"the answer follows {mark!r} in nearly every text"
        else:
            pairs = ((row[column], row[columns.answer]) for row in train)
            share = _lookup_share(pairs, zip(cells, gold, strict=True))
            if share >= max(_MIN_TELLING_SHARE, commonest + 0.05):
                problem = f"its value alone gives {share:.0%} of the answers (always the commonest: {commonest:.0%})"
        if problem:
            fix = "take it out of the data: the harness sees every column but the answer"
            yield TaskFinding("answer-in-column", problem, f"column {column}", fix)
    if columns.grouped_ids:  # views keep what follows the group in an id as it is in the data
        pairs = ((row[columns.id].partition("_")[2], row[columns.answer]) for row in train)
        members = (row[columns.id].partition("_")[2] for row in questions)
        share = _lookup_share(pairs, zip(members, gold, strict=True))
        if share >= max(commonest + 0.2, 0.5 * (1 + commonest)):
            constant = f"always the commonest: {commonest:.0%}"
            problem = f"what follows the group in an id gives {share:.0%} of the answers ({constant})"
            fix = "number the members of a group in no special order"
            yield TaskFinding("answer-in-id", problem, f"column {columns.id}", fix)


def _coded(cells: Sequence[str], gold: Sequence[str]) -> str:
    """Return the way in which this column encodes the answer; empty where it does not."""
    for name, code in _CODES.items():
        same = 0
        for cell, answer in zip(cells, gold, strict=True):
            forms = {comparable_cell(code(form.encode(errors="replace"))) for form in (answer, answer.casefold())}
            same += comparable_cell(cell) in forms
        if same >= _MIN_TELLING_SHARE * len(gold) and len(set(gold)) > 1:
            return name
    return ""


def _marked(cells: Sequence[str], gold: Sequence[str]) -> str:
    """Return the characters that precede the answer in nearly all texts, and precede no other answer."""
    others = sorted(set(gold))
    if len(others) < 2:
        return ""
    before: Counter[str] = Counter()
    for cell, answer in zip(cells, gold, strict=True):
        starts = [match.start() for match in re.finditer(f"(?={re.escape(answer)})", cell)]
        before.update({cell[at - _MARK_LENGTH : at] for at in starts if at >= _MARK_LENGTH})
    mark, count = before.most_common(1)[0] if before else ("", 0)
    if count < 0.9 * len(gold):
        return ""
    wrong = sum(
        any(mark + other in cell and not answer.startswith(other) for other in others if other != answer)
        for cell, answer in zip(cells, gold, strict=True)
    )
    return mark if wrong < 0.1 * len(gold) else ""


def _lookup_share(train: Iterable[tuple[str, str]], cells: Iterable[tuple[str, str]]) -> float:
    """Return the share of questions answered by the commonest answer to their value in train, or the nearest number."""
    examples, questions = list(train), list(cells)
    if not examples:
        return 0.0
    by_value: dict[str, Counter[str]] = defaultdict(Counter)
    for cell, answer in examples:
        by_value[cell][answer] += 1
    exact = [cell in by_value and by_value[cell].most_common(1)[0][0] == answer for cell, answer in questions]
    share = sum(exact) / len(questions)
    try:
        ordered = sorted((float(cell), answer) for cell, answer in examples)
        values = [(float(cell), answer) for cell, answer in questions]
    except ValueError:
        return share
    right = 0
    for value, answer in values:
        index = bisect.bisect_left(ordered, (value, ""))
        nearest = min(ordered[max(0, index - 1) : index + 1], key=lambda pair: abs(pair[0] - value))
        right += nearest[1] == answer
    return max(share, right / len(questions))


def few_questions(subject: TaskUnderReview, note: AddNote) -> Iterator[TaskFinding]:
    """Find splits with too few questions, and note the standard error on val."""
    splits = subject.task.splits()
    for name in ("val", "test"):
        n = len(splits[name])
        if n < _MIN_QUESTIONS:
            problem = f"{n} {name} questions: the standard error of a share is up to {50 / math.sqrt(n):.0f} points"
            fix = f"label more questions, or give {name} a larger share (splits.folds makes all that is not test val)"
            yield TaskFinding("too-few", problem, f"splits.{name}", fix)
    error = 50 / math.sqrt(len(splits["val"]))
    sizes = ", ".join(f"{len(units):,} {name}" for name, units in splits.items() if units)
    note(f"{sizes}; on val the standard error of a share is at most {error:.1f} points")


def leaking_splits(subject: TaskUnderReview, cache: Path) -> Iterator[TaskFinding]:
    """Find questions that nearly stand in train, with an answer that is right for them too."""
    if not subject.gold_files:
        texts = {unit: subject.units.content(unit) for unit in subject.units.answers}
        near = {unit: number for number, group in enumerate(near_duplicate_groups(texts, cache)) for unit in group}
        fix = "remove the doubles, or give each family of questions one group of ids (columns.grouped_ids)"
        what = "that nearly stand in train, answer included"
        yield from _lookup_findings(subject, near.get, "near-duplicates", what, fix)
    if not subject.spec.columns.grouped_ids:
        groups = _groups_by_id(subject)
        fix = "set columns.grouped_ids: true, with ids like 0013_02"
        yield from _lookup_findings(subject, groups.get, "groups-cut", "whose id names a group that train answers", fix)


def _lookup_findings(
    subject: TaskUnderReview, key: Callable[[str], object], code: str, what: str, fix: str
) -> Iterator[TaskFinding]:
    """Find splits in which looking up questions of the same key in train is worth more than a constant."""
    answers = subject.units.answers
    for name, fold in (("val", subject.select_fold), ("test", subject.test_fold)):
        of_split = set(subject.task.splits()[name])
        questions = [unit for unit in fold.questions if unit in of_split]
        by_group: dict[object, Counter[str]] = defaultdict(Counter)
        for unit in fold.train:
            if (group := key(unit)) is not None:
                by_group[group][answers[unit]] += 1
        related = [unit for unit in questions if key(unit) in by_group]
        right = sum(answers[unit] == by_group[key(unit)].most_common(1)[0][0] for unit in related)
        usual = Counter(answers[unit] for unit in questions).most_common(1)[0][1] / len(questions)
        worth = (right - usual * len(related)) / len(questions)
        if worth >= _MIN_GAIN:
            count = f"{len(related)} of {len(questions)} {name} questions"
            problem = f"{count} {what}: looking them up is worth {100 * worth:.0f} points"
            yield TaskFinding(code, problem, f"split {name}", fix)


def _groups_by_id(subject: TaskUnderReview) -> dict[str, str]:
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
