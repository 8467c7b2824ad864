"""The review of a task without running a harness: all checks, from the cheapest to the slowest."""

import tempfile
from collections.abc import Sequence
from pathlib import Path

from sia_runner.tasks.review.columns import telling_columns
from sia_runner.tasks.review.finding import Finding, Review
from sia_runner.tasks.review.gaming import Games
from sia_runner.tasks.review.hostile import hostile_submissions
from sia_runner.tasks.review.judging import check_contract, check_repeatable, check_sample_time, check_time, unsafe_code
from sia_runner.tasks.review.seen import gold_in_description, gold_in_programs, gold_in_view
from sia_runner.tasks.review.splitting import few_questions, leaking_splits
from sia_runner.tasks.review.subject import Content, Sample, Subject
from sia_runner.tasks.table import TableTask


def review(task: TableTask, cache: Path, sample: Sample | None = None, sandbox_command: Sequence[str] = ()) -> Review:
    """Return the findings about a task. Raises TaskError.

    `cache`: the folder where near-duplicates are cached. `sample`: for tasks whose submissions only the task itself can
    read. `sandbox_command`: see Task.verify.
    """
    result = Review()
    with tempfile.TemporaryDirectory(prefix="sia-review-") as folder:
        subject = Subject(task, Path(folder), sample, sandbox_command)
        _check_declaration(subject, result)
        result.add(unsafe_code(subject))
        result.add(gold_in_description(subject))
        result.add(gold_in_view(subject))
        result.add(gold_in_programs(subject))
        result.add(telling_columns(subject))
        result.add(few_questions(subject, result.notes.append))
        result.add(leaking_splits(subject, cache))
        _check_verifier(subject, result)
    return result


def _check_declaration(subject: Subject, result: Review) -> None:
    """Check the licence and the description."""
    spec = subject.spec
    if spec.data.licence.strip().casefold() in ("", "not stated"):
        fix = "say who made the data and what others may do with it"
        result.add([Finding("no-licence", "nobody knows whether the data may be used", "task.data.licence", fix)])
    if len(subject.task.description.split()) < 10:
        fix = "say what is asked, what an answer looks like, and how it is scored"
        result.add([Finding("no-description", "fewer than ten words", "task.md", fix)])


def _check_verifier(subject: Subject, result: Review) -> None:
    """Try the verifier with wrong submissions, unless it already fails on the right one."""
    if not subject.is_table:
        _check_with_sample(subject, result)
        return
    honest = subject.verify_rows(subject.gold.items())
    if honest.value is None:
        fix = "verify() must give one Outcome for each id of `answers`, with a finite value"
        result.add(
            [Finding("judge-fails", f"it fails on the gold answers: {honest.error}", subject.verifier_name, fix)]
        )
        return
    attacks = Games(subject, honest.value)
    if not subject.better(honest.value, attacks.constant):
        fix = "the answer column must hold what a perfect harness would write"
        problem = f"the gold answers score {honest.value:.3f}, a constant {attacks.constant:.3f}"
        result.add([Finding("gold-is-wrong", problem, subject.verifier_name, fix)])
        return
    result.add(check_contract(subject, honest, attacks.half))
    result.add(attacks.findings(result.notes.append))
    result.add(hostile_submissions(subject, None))
    result.add(check_time(subject, result.notes.append))


def _check_with_sample(subject: Subject, result: Review) -> None:
    """Try the verifier with the reference harness's submission, repeated and damaged.

    Only the task knows the form of such a submission.
    """
    content = _content(subject)
    if subject.sample is None or content is None:
        result.notes.append("no submission to try the judge with: it was given damaged files only")
    else:
        result.add(check_repeatable(subject, subject.sample.submission))
        result.add(check_sample_time(subject, subject.sample, result.notes.append))
    result.add(hostile_submissions(subject, content))


def _content(subject: Subject) -> Content:
    """Return the file that was submitted, or the files of the folder; None where there is nothing."""
    if subject.sample is None:
        return None
    folder = subject.sample.submission
    path = folder / subject.spec.submission
    if path.is_file():
        return path.read_bytes()
    files = {
        file.relative_to(folder).as_posix(): file.read_bytes() for file in sorted(path.rglob("*")) if file.is_file()
    }
    return files or None
