"""The review of a task without running a harness: all checks, from the cheapest to the slowest."""

import ast
import re
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from sia_runner.records import Outcome
from sia_runner.tasks.process import verifier_output
from sia_runner.tasks.review import leaks
from sia_runner.tasks.review.attacks import ScoringAttacks, hostile_submissions
from sia_runner.tasks.review.subject import (
    NONSENSE,
    AddNote,
    ReferenceSubmission,
    SubmissionContent,
    TaskFinding,
    TaskReview,
    TaskUnderReview,
    Verification,
    comparable_cell,
)
from sia_runner.tasks.table import TableTask

_REPEATS = 3
# What turns text of a submission into code, by the name it is called with
_PICKLES = ("pickle.load", "pickle.loads", "dill.load", "pd.read_pickle", "pandas.read_pickle")
_UNSAFE = dict.fromkeys(_PICKLES, "a pickle runs code when it is loaded") | {
    "eval": "eval() runs what a harness wrote",
    "exec": "exec() runs what a harness wrote",
    "joblib.load": "joblib loads pickles, which run code",
    "torch.load": "torch.load may load pickles, which run code",
    "yaml.load": "yaml.load can build any object",
    "yaml.unsafe_load": "yaml.unsafe_load can build any object",
    "os.system": "a shell sees what a harness wrote",
}


def check_contract(
    subject: TaskUnderReview, honest: Verification, half: Sequence[tuple[str, str]]
) -> Iterator[TaskFinding]:
    """Check the contract: the same result twice, values from 0 to 1, no gold answers shown.

    `honest`: the verification of a good submission; `half`: answers to half of the questions.
    """
    yield from _value_findings(subject, honest.outcomes)
    yield from _repeatability_findings(subject, subject.submit(half))
    wrong = subject.submit([(name, NONSENSE) for name in subject.gold])
    nonsense = subject.verify(wrong)
    yield from _value_findings(subject, nonsense.outcomes)
    if len({o.prediction for o in nonsense.outcomes}) == 1:  # the same text for all questions tells no answer
        nonsense = replace(nonsense, outcomes=[])
    telling = [
        o
        for o in nonsense.outcomes
        if len(gold := comparable_cell(subject.units.answers[o.unit])) > 1
        and gold in comparable_cell(o.prediction.replace(NONSENSE, ""))
    ]
    if len(telling) > 2:
        problem = f"the texts of {len(telling)} outcomes tell the gold answer"
        yield subject.fault("shows-gold", problem, "an outcome's prediction is what the harness wrote, nothing else")
    request = subject.task._request(wrong, subject.attack_view.keys)
    output = verifier_output(request, subject.spec.limits.verify).casefold()
    gold_cells = {cell for gold in subject.gold.values() if len(cell := comparable_cell(gold)) > 1}
    if printed := [cell for cell in gold_cells if re.search(rf"(?<!\w){re.escape(cell)}(?!\w)", output)]:
        problem = f"it prints {len(printed)} gold answers while it judges"
        yield subject.fault("prints-gold", problem, "print nothing about answers: output ends up in logs")


def _repeatability_findings(subject: TaskUnderReview, submission: Path) -> Iterator[TaskFinding]:
    # once is enough where submissions are programs: their scores may be times, which differ
    verdicts = [subject.verify(submission) for _ in range(1 if subject.task.executes else _REPEATS)]
    if any(verdict.outcomes != verdicts[0].outcomes for verdict in verdicts):
        fix = "seed what is random, and do not judge by time or by the order of a set"
        yield subject.fault("not-deterministic", f"{_REPEATS} looks at one submission gave different scores", fix)
    yield from _value_findings(subject, verdicts[0].outcomes)


def check_time(subject: TaskUnderReview, note: AddNote) -> Iterator[TaskFinding]:
    """Time the verification of the largest fold: all questions of it answered with their gold."""
    select_view = subject.task.lay_out(subject.select_fold, subject.folder / "select", "review")
    keys = max((select_view.keys, subject.test_view.keys), key=len)
    rows = [(name, subject.units.answers[unit]) for name, unit in keys.items()]
    yield from _timing_findings(subject, subject.verify(subject.submit(rows), keys), note)


def _timing_findings(subject: TaskUnderReview, verification: Verification, note: AddNote) -> Iterator[TaskFinding]:
    limit, n = subject.spec.limits.verify, len(verification.outcomes)
    note(f"judging {n:,} answers takes {verification.seconds:.2f} s (limits.verify: {limit:g} s)")
    if verification.seconds > limit / 2:
        problem = f"judging {n:,} answers takes {verification.seconds:.1f} s of the {limit:g} s allowed"
        yield subject.fault("slow-judge", problem, "make it faster, or raise task.limits.verify")


def unsafe_code(subject: TaskUnderReview) -> Iterator[TaskFinding]:
    """Find calls in verifier.py that would run what a harness wrote."""
    path = subject.task._home / "verifier.py"
    if subject.spec.metric.verifier != "python":
        return
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            danger = _UNSAFE.get(name)
            if any(word.arg == "allow_pickle" and ast.unparse(word.value) != "False" for word in node.keywords):
                danger = "allow_pickle runs code of the file that is loaded"
            if danger and not (name == "torch.load" and "weights_only=True" in ast.unparse(node)):
                fix = "read plain formats: CSV, JSON, numpy with allow_pickle=False"
                yield TaskFinding("runs-submissions", danger, f"verifier.py line {node.lineno}", fix)


def _value_findings(subject: TaskUnderReview, outcomes: Sequence[Outcome]) -> Iterator[TaskFinding]:
    outside = [o.value for o in outcomes if not 0 <= o.value <= 1]
    if outside and subject.task.higher_is_better:
        problem = f"{len(outside)} of {len(outcomes)} outcomes are outside [0, 1], such as {outside[0]:g}"
        yield subject.fault("out-of-range", problem, "scale values to [0, 1]: one question must not outweigh the rest")


def review(
    task: TableTask, cache: Path, sample: ReferenceSubmission | None = None, sandbox_command: Sequence[str] = ()
) -> TaskReview:
    """Return the findings about a task; `sample` is for submissions that only the task itself can read."""
    result = TaskReview()
    with tempfile.TemporaryDirectory(prefix="sia-review-") as folder:
        subject = TaskUnderReview(task, Path(folder), sample, sandbox_command)
        _check_declaration(subject, result)
        result.add(unsafe_code(subject))
        for check in (leaks.gold_in_description, leaks.gold_in_view, leaks.gold_in_programs, leaks.telling_columns):
            result.add(check(subject))
        result.add(leaks.few_questions(subject, result.notes.append))
        result.add(leaks.leaking_splits(subject, cache))
        _check_verifier(subject, result)
    return result


def _check_declaration(subject: TaskUnderReview, result: TaskReview) -> None:
    spec = subject.spec
    if spec.data.licence.strip().casefold() in ("", "not stated"):
        fix = "say who made the data and what others may do with it"
        result.add([TaskFinding("no-licence", "nobody knows whether the data may be used", "task.data.licence", fix)])
    if len(subject.task.description.split()) < 10:
        fix = "say what is asked, what an answer looks like, and how it is scored"
        result.add([TaskFinding("no-description", "fewer than ten words", "task.md", fix)])


def _check_verifier(subject: TaskUnderReview, result: TaskReview) -> None:
    if not subject.is_table:
        _check_with_sample(subject, result)
        return
    honest = subject.verify_rows(subject.gold.items())
    if honest.value is None:
        fix = "verify() must give one Outcome for each id of `answers`, with a finite value"
        result.add([subject.fault("judge-fails", f"it fails on the gold answers: {honest.error}", fix)])
        return
    attacks = ScoringAttacks(subject, honest.value)
    if not subject.better(honest.value, attacks.constant):
        problem = f"the gold answers score {honest.value:.3f}, a constant {attacks.constant:.3f}"
        fix = "the answer column must hold what a perfect harness would write"
        result.add([subject.fault("gold-is-wrong", problem, fix)])
        return
    result.add(check_contract(subject, honest, attacks.half))
    result.add(attacks.findings(result.notes.append))
    result.add(hostile_submissions(subject, None))
    result.add(check_time(subject, result.notes.append))


def _check_with_sample(subject: TaskUnderReview, result: TaskReview) -> None:
    content: SubmissionContent = None
    if subject.sample:
        folder = subject.sample.submission
        path = folder / subject.spec.submission
        files = [file for file in sorted(path.rglob("*")) if file.is_file()]
        by_name = {file.relative_to(folder).as_posix(): file.read_bytes() for file in files}
        content = path.read_bytes() if path.is_file() else by_name or None
    if subject.sample is None or content is None:
        result.notes.append("no submission to try the judge with: it was given damaged files only")
    else:
        result.add(_repeatability_findings(subject, subject.sample.submission))
        verification = subject.verify(subject.sample.submission)
        result.add(_timing_findings(subject, verification, result.notes.append))
    result.add(hostile_submissions(subject, content))
