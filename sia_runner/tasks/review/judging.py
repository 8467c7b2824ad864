"""Does the judge keep its contract? The same answer twice, values from 0 to 1, no gold shown, in time; and its code."""

import ast
from collections.abc import Iterator, Sequence
from pathlib import Path

from sia_runner.records import Outcome
from sia_runner.tasks.process import printed
from sia_runner.tasks.protocol import View
from sia_runner.tasks.review.finding import Finding, Note
from sia_runner.tasks.review.records import plain
from sia_runner.tasks.review.subject import Judged, Sample, Subject

NONSENSE = "zzqx nonsense"  # an answer that is right nowhere
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


def contract(subject: Subject, honest: Judged, half: Sequence[tuple[str, str]]) -> Iterator[Finding]:
    """`honest`: what the judge said to a good submission; `half`: answers to half of the questions."""
    where = subject.judge_name
    yield from _values(subject, honest.outcomes, where)
    yield from repeatable(subject, subject.submit(half))
    wrong = subject.submit([(name, NONSENSE) for name in subject.gold])
    judged = subject.judge(wrong)
    yield from _values(subject, judged.outcomes, where)
    yield from _shows(subject, judged.outcomes, where)
    said = printed(subject.task._request(wrong, subject.asked.keys), subject.spec.limits.verify)
    told = {plain(gold) for gold in subject.gold.values() if len(plain(gold)) > 1 and plain(gold) in said.casefold()}
    if told:
        fix = "print nothing about answers: output ends up in logs"
        yield Finding("prints-gold", f"it prints {len(told)} gold answers while it judges", where, fix)


def repeatable(subject: Subject, submission: Path) -> Iterator[Finding]:
    """Where submissions are programs scores may be times, which differ."""
    verdicts = [subject.judge(submission) for _ in range(1 if subject.task.executes else _REPEATS)]
    if any(verdict.outcomes != verdicts[0].outcomes for verdict in verdicts):
        fix = "seed what is random, and do not judge by time or by the order of a set"
        what = f"{_REPEATS} looks at one submission gave different scores"
        yield Finding("not-deterministic", what, subject.judge_name, fix)
    yield from _values(subject, verdicts[0].outcomes, subject.judge_name)


def in_time(subject: Subject, note: Note) -> Iterator[Finding]:
    """A verification of the largest round: all questions of it answered with their gold."""
    views: list[View] = [subject.view(subject.select, "select"), subject.last]
    view = max(views, key=lambda one: len(one.keys))
    rows = [(name, subject.units.answers[unit]) for name, unit in view.keys.items()]
    yield from _time(subject, subject.judge(subject.submit(rows), view.keys), note)


def sample_in_time(subject: Subject, sample: Sample, note: Note) -> Iterator[Finding]:
    yield from _time(subject, subject.judge(sample.submission), note)


def _time(subject: Subject, judged: Judged, note: Note) -> Iterator[Finding]:
    limit, n = subject.spec.limits.verify, len(judged.outcomes)
    note(f"judging {n:,} answers takes {judged.seconds:.2f} s (limits.verify: {limit:g} s)")
    if judged.seconds > limit / 2:
        what = f"judging {n:,} answers takes {judged.seconds:.1f} s of the {limit:g} s allowed"
        yield Finding("slow-judge", what, subject.judge_name, "make it faster, or raise task.limits.verify")


def unsafe_code(subject: Subject) -> Iterator[Finding]:
    path = subject.task._home / "verifier.py"
    if subject.spec.metric.verifier != "python":
        return
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            why = _UNSAFE.get(name)
            if any(word.arg == "allow_pickle" and ast.unparse(word.value) != "False" for word in node.keywords):
                why = "allow_pickle runs code of the file that is loaded"
            if why and not (name == "torch.load" and "weights_only=True" in ast.unparse(node)):
                fix = "read plain formats: CSV, JSON, numpy with allow_pickle=False"
                yield Finding("runs-submissions", why, f"verifier.py line {node.lineno}", fix)


def _values(subject: Subject, outcomes: Sequence[Outcome], where: str) -> Iterator[Finding]:
    outside = [o.value for o in outcomes if not 0 <= o.value <= 1]
    if outside and subject.task.higher_is_better:
        what = f"{len(outside)} of {len(outcomes)} outcomes are outside [0, 1], such as {outside[0]:g}"
        yield Finding("out-of-range", what, where, "scale values to [0, 1]: one question must not outweigh the rest")


def _shows(subject: Subject, outcomes: Sequence[Outcome], where: str) -> Iterator[Finding]:
    """The text of an outcome is what was answered; here all answers were nonsense."""
    shown = [
        o for o in outcomes if len(gold := plain(subject.units.answers[o.unit])) > 1 and gold in plain(o.prediction)
    ]
    if len(shown) > 2:
        what = f"the texts of {len(shown)} outcomes tell the gold answer"
        yield Finding("shows-gold", what, where, "an outcome's prediction is what the harness wrote, nothing else")
