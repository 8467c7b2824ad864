"""Gold answers that a harness, or whoever writes one, can simply read: in the view, beside the programs, in task.md."""

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from sia_runner.rundir import sha256_of
from sia_runner.tasks.review.finding import Finding
from sia_runner.tasks.review.records import Record, plain, records, records_of
from sia_runner.tasks.review.subject import Subject

_TEXT = 12  # characters from which a field names its question
_QUOTED = 20  # from which a field standing in task.md is that question's, not a phrase
_SHARE = 0.05  # of the questions; a few coincide by chance
_PROGRAMS = ("reference", "recipes", "with_model")
_KEEP_OUT = "give harnesses only what may be known while answering"


def gold_in_view(subject: Subject) -> Iterator[Finding]:
    """Compare files of the view beside train and questions with the answers of every question that is ever asked."""
    spec = subject.spec
    answers = {spec.data.answers, spec.data.labelled, spec.data.test} - {None}
    secret = {sha256_of(subject.source / str(name)): name for name in answers}
    for name, path in spec.data.extra.items():
        where = f"task.data.extra {name}"
        same = secret.get(sha256_of(subject.source / path))
        if same:
            yield Finding("gold-in-view", f"every view holds a copy of {same}", where, _KEEP_OUT)
        elif telling := _telling_rows(subject, records_of(subject.source / path)):
            yield Finding("gold-in-view", f"its rows tell the answers of {telling}", where, _KEEP_OUT)
    if subject.gold_files:
        yield from _gold_files(subject)


def gold_in_programs(subject: Subject) -> Iterator[Finding]:
    """Check the files that every harness starts with, which must not tell answers of dev, val and test."""
    for folder in _PROGRAMS:
        for path in sorted((subject.task.folder / folder).rglob("*")):
            if path.is_file() and not path.is_symlink() and "__pycache__" not in path.parts:
                telling = _telling_rows(subject, records_of(path))
                if telling:
                    where = path.relative_to(subject.task.folder).as_posix()
                    yield Finding("gold-in-program", f"its lines tell the answers of {telling}", where, _KEEP_OUT)


def gold_in_description(subject: Subject) -> Iterator[Finding]:
    """Check task.md, which proposers and harnesses read."""
    text = subject.task.description
    fix = "take examples from rows of your own making"
    quoted = [unit for unit in _ever_asked(subject) if any(field in text for field in _long(subject, unit, _QUOTED))]
    if quoted:
        yield Finding("questions-in-task-md", f"it quotes {len(quoted)} questions of dev, val or test", "task.md", fix)
    hits, chance, n = _pairs(subject, records(text.encode(), "task.md"))
    if hits >= 5 and hits > 2 * chance + 3:
        yield Finding("answers-in-task-md", f"it tells the answers of {hits} of {n} questions", "task.md", fix)
    elif stated := _free_answers(subject, text):
        yield Finding("answers-in-task-md", f"it states {stated}", "task.md", fix)


def _free_answers(subject: Subject, text: str) -> str:
    """Describe answers in task.md that belong to one question only; empty where there are few.

    Many of them are no vocabulary of the task.
    """
    units = _ever_asked(subject)
    counts = Counter(plain(subject.units.answers[unit]) for unit in units)
    own = [answer for answer, count in counts.items() if count == 1 and len(answer) > 1]
    cells = {cell for record in records(text.encode(), "task.md") for cell in record}
    stated = [answer for answer in own if answer in cells or (len(answer) >= _TEXT and answer in text.casefold())]
    if subject.gold_files or len(stated) < max(5, 0.3 * len(own)):
        return ""
    return f"{len(stated)} of the {len(own)} answers that only one question has"


def _telling_rows(subject: Subject, rows: Iterable[Record]) -> str:
    """Return `97 of 120 questions` where rows hold questions with their answers far more often than by chance."""
    hits, chance, n = _pairs(subject, rows)
    spread = 3 * (chance / n * (1 - chance / n) / n) ** 0.5 if n else 0.0
    return f"{hits} of {n} questions" if n and hits / n - chance / n >= max(_SHARE, spread) else ""


def _pairs(subject: Subject, rows: Iterable[Record]) -> tuple[int, int, int]:
    """Count questions that share a row with their answer.

    Return (that count, the same with another question's answer, all questions).
    """
    units = _ever_asked(subject)
    if subject.gold_files:
        return 0, 0, len(units)
    names = _names(subject, units)
    answers = [plain(subject.units.answers[unit]) for unit in units]
    true, other = set[int](), set[int]()
    for row in rows:
        for cell in row:
            for index in names.get(cell, ()):
                rest = row - {cell}
                if answers[index] in rest:
                    true.add(index)
                if answers[index - len(units) // 2] in rest:
                    other.add(index)
    return len(true), len(other), len(units)


def _names(subject: Subject, units: Sequence[str]) -> Mapping[str, list[int]]:
    """Return each text that names a question (its id in the data, a long field) -> the question's indices."""
    names: dict[str, list[int]] = {}
    for index, unit in enumerate(units):
        for name in {plain(unit.removeprefix("test:")), *map(plain, _long(subject, unit, _TEXT))}:
            names.setdefault(name, []).append(index)
    return {name: indices for name, indices in names.items() if len(indices) <= 3}


def _long(subject: Subject, unit: str, min_length: int) -> list[str]:
    return [field for field in subject.units.fields[unit] if len(field.strip()) >= min_length]


def _ever_asked(subject: Subject) -> list[str]:
    splits = subject.task.splits()
    return [*splits["dev"], *splits["val"], *splits["test"]]


def _gold_files(subject: Subject) -> Iterator[Finding]:
    """Compare the view's files with gold answers that are files: none may hold the same bytes."""
    for view in (subject.attack_view, subject.test_view):
        gold = {sha256_of(subject.source / subject.units.answers[unit]) for unit in view.keys.values()}
        for path in sorted(view.path.rglob("*")):
            if path.is_file() and _sha256(path) in gold:
                where = path.relative_to(view.path).as_posix()
                yield Finding("gold-in-view", "a file of the view is the gold of a question", where, _KEEP_OUT)


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
