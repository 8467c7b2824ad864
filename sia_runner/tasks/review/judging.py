"""Checks that a verifier keeps its contract, and of its code.

The same result twice, values from 0 to 1, no gold answers shown, in time.
"""

import ast
from collections.abc import Iterator, Sequence
from pathlib import Path

from sia_runner.records import Outcome
from sia_runner.tasks.process import printed
from sia_runner.tasks.protocol import View
from sia_runner.tasks.review.finding import Finding, Note
from sia_runner.tasks.review.records import plain
from sia_runner.tasks.review.subject import NONSENSE, Judged, Sample, Subject

_REPEATS = 3
# What turns text of a submission into code, by the name it is called with
_UNSAFE = {
    "eval": "eval() runs what a harness wrote",
    "exec": "exec() runs what a harness wrote",
    "pickle.load": "a pickle runs code when it is loaded",
    "pickle.loads": "a pickle runs code when it is loaded",
    "joblib.load": "joblib loads pickles, which run code",
    "dill.load": "a pickle runs code when it is loaded",
    "torch.load": "torch.load may load pickles, which run code",
    "pd.read_pickle": "a pickle runs code when it is loaded",
    "pandas.read_pickle": "a pickle runs code when it is loaded",
    "yaml.load": "yaml.load can build any object",
    "yaml.unsafe_load": "yaml.unsafe_load can build any object",
    "os.system": "a shell sees what a harness wrote",
}


def check_contract(subject: Subject, honest: Judged, half: Sequence[tuple[str, str]]) -> Iterator[Finding]:
    """Check the contract. `honest`: the verification of a good submission; `half`: answers to half of the questions."""
    where = subject.verifier_name
    yield from _values(subject, honest.outcomes, where)
    yield from check_repeatable(subject, subject.submit(half))
    wrong = subject.submit([(name, NONSENSE) for name in subject.gold])
    nonsense = subject.verify(wrong)
    yield from _values(subject, nonsense.outcomes, where)
    yield from _shows(subject, nonsense.outcomes, where)
    output = printed(subject.task._request(wrong, subject.attack_view.keys), subject.spec.limits.verify)
    printed_gold = {
        plain(gold) for gold in subject.gold.values() if len(plain(gold)) > 1 and plain(gold) in output.casefold()
    }
    if printed_gold:
        fix = "print nothing about answers: output ends up in logs"
        yield Finding("prints-gold", f"it prints {len(printed_gold)} gold answers while it judges", where, fix)


def check_repeatable(subject: Subject, submission: Path) -> Iterator[Finding]:
    """Check that a submission scores the same twice.

    Once is enough where submissions are programs: their scores may be times, which differ.
    """
    verdicts = [subject.verify(submission) for _ in range(1 if subject.task.executes else _REPEATS)]
    if any(verdict.outcomes != verdicts[0].outcomes for verdict in verdicts):
        fix = "seed what is random, and do not judge by time or by the order of a set"
        problem = f"{_REPEATS} looks at one submission gave different scores"
        yield Finding("not-deterministic", problem, subject.verifier_name, fix)
    yield from _values(subject, verdicts[0].outcomes, subject.verifier_name)


def check_time(subject: Subject, note: Note) -> Iterator[Finding]:
    """Time the verification of the largest fold: all questions of it answered with their gold."""
    views: list[View] = [subject.view(subject.select_fold, "select"), subject.test_view]
    view = max(views, key=lambda candidate: len(candidate.keys))
    rows = [(name, subject.units.answers[unit]) for name, unit in view.keys.items()]
    yield from _time(subject, subject.verify(subject.submit(rows), view.keys), note)


def check_sample_time(subject: Subject, sample: Sample, note: Note) -> Iterator[Finding]:
    """Time the verification of the reference harness's submission."""
    yield from _time(subject, subject.verify(sample.submission), note)


def _time(subject: Subject, verification: Judged, note: Note) -> Iterator[Finding]:
    limit, n = subject.spec.limits.verify, len(verification.outcomes)
    note(f"judging {n:,} answers takes {verification.seconds:.2f} s (limits.verify: {limit:g} s)")
    if verification.seconds > limit / 2:
        problem = f"judging {n:,} answers takes {verification.seconds:.1f} s of the {limit:g} s allowed"
        yield Finding("slow-judge", problem, subject.verifier_name, "make it faster, or raise task.limits.verify")


def unsafe_code(subject: Subject) -> Iterator[Finding]:
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
                yield Finding("runs-submissions", danger, f"verifier.py line {node.lineno}", fix)


def _values(subject: Subject, outcomes: Sequence[Outcome], where: str) -> Iterator[Finding]:
    outside = [o.value for o in outcomes if not 0 <= o.value <= 1]
    if outside and subject.task.higher_is_better:
        problem = f"{len(outside)} of {len(outcomes)} outcomes are outside [0, 1], such as {outside[0]:g}"
        yield Finding("out-of-range", problem, where, "scale values to [0, 1]: one question must not outweigh the rest")


def _shows(subject: Subject, outcomes: Sequence[Outcome], where: str) -> Iterator[Finding]:
    """Check that the text of an outcome is the answer given; here all answers were nonsense."""
    telling = [
        o for o in outcomes if len(gold := plain(subject.units.answers[o.unit])) > 1 and gold in plain(o.prediction)
    ]
    if len(telling) > 2:
        problem = f"the texts of {len(telling)} outcomes tell the gold answer"
        yield Finding("shows-gold", problem, where, "an outcome's prediction is what the harness wrote, nothing else")
