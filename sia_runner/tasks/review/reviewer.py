"""All looks at a task that need no run of a harness, from the cheapest to the one that takes the longest."""

import tempfile
from collections.abc import Sequence
from pathlib import Path

from sia_runner.tasks.review import columns, gaming, hostile, judging, seen, splitting
from sia_runner.tasks.review.finding import Finding, Review
from sia_runner.tasks.review.subject import Content, Sample, Subject
from sia_runner.tasks.table import TableTask


def review(task: TableTask, cache: Path, sample: Sample | None = None, chamber: Sequence[str] = ()) -> Review:
    """`cache`: where near-duplicates are kept. `sample`: for tasks whose submissions only the task itself can read.
    `chamber`: see Task.verify. Raises TaskError."""
    found = Review()
    with tempfile.TemporaryDirectory(prefix="sia-review-") as folder:
        subject = Subject(task, Path(folder), sample, chamber)
        _declared(subject, found)
        found.add(judging.unsafe_code(subject))
        found.add(seen.in_description(subject))
        found.add(seen.in_view(subject))
        found.add(seen.in_programs(subject))
        found.add(columns.telling_columns(subject))
        found.add(splitting.few_questions(subject, found.notes.append))
        found.add(splitting.leaking_splits(subject, cache))
        _judge(subject, found)
    return found


def _declared(subject: Subject, found: Review) -> None:
    spec = subject.spec
    if spec.data.licence.strip().casefold() in ("", "not stated"):
        fix = "say who made the data and what others may do with it"
        found.add([Finding("no-licence", "nobody knows whether the data may be used", "task.data.licence", fix)])
    if len(subject.task.description.split()) < 10:
        fix = "say what is asked, what an answer looks like, and how it is scored"
        found.add([Finding("no-description", "fewer than ten words", "task.md", fix)])


def _judge(subject: Subject, found: Review) -> None:
    """Where the judge fails on what is right there is no sense in trying what is wrong."""
    if not subject.is_table:
        _judge_sample(subject, found)
        return
    honest = subject.answered(subject.gold.items())
    if honest.value is None:
        fix = "verify() must give one Outcome for each id of `answers`, with a finite value"
        found.add([Finding("judge-fails", f"it fails on the gold answers: {honest.error}", subject.judge_name, fix)])
        return
    games = gaming.Games(subject, honest.value)
    if not subject.better(honest.value, games.constant):
        fix = "the answer column must hold what a perfect harness would write"
        what = f"the gold answers score {honest.value:.3f}, a constant {games.constant:.3f}"
        found.add([Finding("gold-is-wrong", what, subject.judge_name, fix)])
        return
    found.add(judging.contract(subject, honest, games.half))
    found.add(games.findings(found.notes.append))
    found.add(hostile.hostile(subject, None))
    found.add(judging.in_time(subject, found.notes.append))


def _judge_sample(subject: Subject, found: Review) -> None:
    """Only the task knows the form of a submission: what the reference harness handed in is repeated and damaged."""
    content = _content(subject)
    if subject.sample is None or content is None:
        found.notes.append("no submission to try the judge with: it was given damaged files only")
    else:
        found.add(judging.repeatable(subject, subject.sample.submission))
        found.add(judging.sample_in_time(subject, subject.sample, found.notes.append))
    found.add(hostile.hostile(subject, content))


def _content(subject: Subject) -> Content:
    """The file that was handed in, or the files of the folder; None where there is nothing."""
    if subject.sample is None:
        return None
    folder = subject.sample.submission
    path = folder / subject.spec.submission
    if path.is_file():
        return path.read_bytes()
    files = {one.relative_to(folder).as_posix(): one.read_bytes() for one in sorted(path.rglob("*")) if one.is_file()}
    return files or None
