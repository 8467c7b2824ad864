"""Submissions that should earn nothing, or no more than a constant, and submissions that no honest harness writes."""

from collections.abc import Callable, Iterator, Mapping, Sequence

from sia_runner.tasks.review.subject import (
    NONSENSE,
    AddNote,
    AnswerRow,
    SubmissionContent,
    TaskFinding,
    TaskUnderReview,
    read_table,
)

_EMPTY_ANSWERS = ["", "  ", "nan", "inf", "-inf", "1e999", "None", "null", "[]", "0x0"]
_MAX_CHOICES = 50  # different answers given to every question


class ScoringAttacks:
    """Attacks by tables that answer nothing honestly. `constant` is the score of the best constant `answer`."""

    def __init__(self, subject: TaskUnderReview, honest: float) -> None:
        self._subject, self.honest = subject, honest
        self._gold: list[AnswerRow] = list(subject.gold.items())
        self.half = self._gold[: len(self._gold) // 2]
        self._values: dict[tuple[AnswerRow, ...], float | None] = {}
        answers = dict.fromkeys(subject.constants)
        values = [(value, answer) for answer in answers if (value := self._value_of_each(answer)) is not None]
        best = max if subject.task.higher_is_better else min
        self.constant, self.answer = best(values, default=(0.0, ""))

    def findings(self, note: AddNote) -> Iterator[TaskFinding]:
        """Try every attack."""
        scores = f"{self.answer[:40]!r} to every question scores {self.constant:.3f}"
        note(f"{scores}, the gold answers {self.honest:.3f}")
        if self._subject.task.higher_is_better and self.constant >= 0.9:
            fix = "balance the questions, or take a metric that a constant does not win"
            yield self._subject.fault("constant", scores, fix)
        attacks = self._nothing, self._denominator, self._duplicates, self._unknown_ids, self._own_scores, self._samples
        for attack in attacks:
            yield from attack()

    def _nothing(self) -> Iterator[TaskFinding]:
        """Submit no file, no rows, no answers, and texts that look like a number without being one."""
        gold = {answer.strip().casefold() for _, answer in self._gold}
        empty = [text for text in _EMPTY_ANSWERS if text.casefold() not in gold]
        mixed = [(name, empty[n % len(empty)]) for n, (name, _) in enumerate(self._gold)]
        no_file = self._subject.verify(self._subject.submit_bytes(None)).value
        tried = {"no row at all": self._value([]), "no file at all": no_file}
        if (all_at_once := self._value(mixed)) is not None and self._earns(all_at_once):
            tried |= {f"{text!r} as every answer": self._value_of_each(text) for text in empty}
        for what, value in tried.items():
            if value is not None and self._earns(value):
                fix = "give an answer that is none the worst value there is"
                yield self._subject.fault("empty-earns", f"{what} scores {value:.3f}", fix)

    def _earns(self, value: float) -> bool:
        """Return True when the score is more than nothing; where lower is better, when it is as good as answering."""
        if self._subject.task.higher_is_better:
            return value > max(0.0, self._value_of_each(NONSENSE) or 0.0) + 1e-9
        return self._subject.better(value, self.constant)

    def _denominator(self) -> Iterator[TaskFinding]:
        """Answer one question right and no other, which must score clearly worse than all answers right."""
        value = self._value(self._gold[:1])
        if value is None or len(self._gold) <= 3:
            return
        higher_is_better = self._subject.task.higher_is_better
        if value > self.honest * 0.75 if higher_is_better else not self._subject.better(self.honest, value):
            problem = f"one right answer and nothing else scores {value:.3f} on {len(self._gold)} questions"
            yield self._subject.fault("denominator", problem, "divide by the questions asked, not by the answers given")

    def _duplicates(self) -> Iterator[TaskFinding]:
        fix = "let an id that is answered twice earn nothing"
        for name, rows, times in (
            ("half of the rows twice", self.half, 2),
            ("one right row again and again", self._gold[:1], 5 * len(self._gold)),
        ):
            once, value = self._value(rows), self._value(rows * times)
            if value is not None and once is not None and self._subject.better(value, once):
                yield self._subject.fault("duplicates", f"{name} scores {value:.3f}, each once {once:.3f}", fix)
        answers = sorted({answer for _, answer in self._gold})[:_MAX_CHOICES]
        everything = self._value([(name, answer) for name, _ in self._gold for answer in answers])
        between = (self.constant + self.honest) / 2
        if len(answers) > 1 and everything is not None and self._subject.better(everything, between):
            problem = f"every possible answer to every question scores {everything:.3f}"
            yield self._subject.fault("duplicates", problem, fix)

    def _unknown_ids(self) -> Iterator[TaskFinding]:
        half = self._value(self.half)
        unknown = [(f"no such id {n}", answer) for n, (_, answer) in enumerate(self._gold)]
        extra = self._value([*self.half, *unknown])
        if half is not None and extra is not None and abs(extra - half) > 1e-9:
            problem = f"rows of unknown ids change a score from {half:.3f} to {extra:.3f}"
            yield self._subject.fault("unknown-ids", problem, "look at the ids that are asked, and at no others")

    def _own_scores(self) -> Iterator[TaskFinding]:
        """Submit nonsense beside files that claim a score; such files are copied with a submission, for people."""
        claim = '{"score": 1.0, "accuracy": 1.0, "correct": true, "value": 1.0}'
        rows = [(name, NONSENSE) for name, _ in self._gold]
        names = ("agent_execution.json", "results.json", "scores.json")
        with_claim = self._subject.verify(self._subject.submit(rows, others=dict.fromkeys(names, claim))).value
        without = self._value(rows)
        if with_claim is not None and without is not None and self._subject.better(with_claim, without):
            problem = f"a harness that writes its own scores earns {with_claim:.3f} with nonsense"
            yield self._subject.fault("trusts-harness", problem, "read the submission file alone")

    def _samples(self) -> Iterator[TaskFinding]:
        """Submit extra files that look like a submission, as they are or with the ids of the view."""
        columns, extra = self._subject.spec.columns, self._subject.spec.data.extra
        for name in (name for name in extra if name.endswith(".csv")):
            rows = read_table(self._subject.attack_view.path / name)
            if not rows or columns.answer not in rows[0]:
                continue
            answers = [row[columns.answer] or "" for row in rows]
            own_ids = [row.get(columns.id) or "" for row in rows]
            for ids in (own_ids, [view_id for view_id, _ in self._gold]):
                value = self._value(list(zip(ids, answers, strict=False)))
                if value is not None and self._subject.better(value, (self.constant + self.honest) / 2):
                    fix = "fill a sample submission with one constant answer"
                    problem = f"a copy of it scores {value:.3f}"
                    yield TaskFinding("sample-earns", problem, f"task.data.extra {name}", fix)

    def _value(self, rows: Sequence[AnswerRow]) -> float | None:
        """Return the score of these rows; None where the verifier fails."""
        key = tuple(rows)
        if key not in self._values:
            self._values[key] = self._subject.verify_rows(rows).value
        return self._values[key]

    def _value_of_each(self, answer: str) -> float | None:
        return self._value([(name, answer) for name, _ in self._gold])


_HUGE = 16 << 20  # bytes, where the task allows so many
_TEXTS = {
    "a number of 5,000 digits": "9" * 5000,
    "a number too large for a float": "1e400",
    "NaN": "nan",
    "10,000 opening brackets": "[" * 10_000,
    "deeply nested JSON": '{"a":' * 5000 + "1" + "}" * 5000,
    "50,000 letters": "a" * 50_000 + "!",
    "a format string": "%s%n{0.__class__}{missing}",
    "a path": "../../../../etc/passwd",
    "control characters": "\x07\x1b[2J\u202e\ufffe",
    "a lone quote": '"',
    "nothing but commas": ",,,,,",
}


def hostile_submissions(subject: TaskUnderReview, sample: SubmissionContent) -> Iterator[TaskFinding]:
    """Try hostile submissions on the verifier. `sample`: the submission of the reference harness.

    Where the verifier fails a candidate is unscored, not wrong, which a harness may prefer to a bad score.
    """
    honest = sample
    if subject.is_table:
        honest = (subject.submit(subject.gold.items()) / subject.spec.submission).read_bytes()
    good = subject.verify(subject.submit_bytes(honest)).value if honest else None
    for name, data in _hostile_files(subject, honest).items():
        yield from _try(subject, name, data, good)
    # a verifier that survives every kind of nonsense at once survives each kind alone
    texts = list(_TEXTS.values())
    rows = [(view_id, texts[n % len(texts)]) for n, view_id in enumerate(subject.gold)]
    if subject.is_table and subject.verify_rows(rows).value is None:
        for name, text in _TEXTS.items():
            rows = subject.submit([(view_id, text) for view_id in subject.gold]) / subject.spec.submission
            yield from _try(subject, f"{name} as every answer", rows.read_bytes(), None)


def _try(subject: TaskUnderReview, name: str, data: SubmissionContent, good: float | None) -> Iterator[TaskFinding]:
    verification = subject.verify(subject.submit_bytes(data))
    if verification.value is None:
        fix = "catch what reading and converting may raise, and call it invalid_format"
        yield subject.fault("judge-fails", f"it fails on {name}: {verification.error}", fix)
    elif good is not None and subject.better(verification.value, good):
        problem = f"{name} scores {verification.value:.3f}, the submission it was made of {good:.3f}"
        yield subject.fault("damage-earns", problem, "nothing that cannot be read may count as an answer")


def _hostile_files(subject: TaskUnderReview, honest: SubmissionContent) -> Mapping[str, SubmissionContent]:

    def change_each(change: Callable[[bytes], bytes]) -> SubmissionContent:
        whole = honest if isinstance(honest, dict) else {"": honest or b""}
        changed = {name: change(data) for name, data in whole.items()}
        return changed if isinstance(honest, dict) else changed[""]

    huge = min(_HUGE, (subject.spec.limits.submission_mb << 20) - 1)
    files: dict[str, SubmissionContent] = {
        "no file": None,
        "an empty file": b"",
        "random bytes": bytes(range(256)) * 64,
        "zeros": bytes(4096),
        f"{huge >> 20} MiB without a line break": b"x" * huge,
    }
    if honest:
        files |= {
            "half of a good submission": change_each(lambda data: data[: len(data) // 2]),
            "a good submission with bytes changed": change_each(
                lambda data: bytes(byte ^ 0x15 if index % 50 == 7 else byte for index, byte in enumerate(data))
            ),
        }
    if isinstance(honest, dict):
        files |= {
            "a good submission with files exchanged": dict(zip(honest, [*honest.values()][::-1], strict=True)),
            "one file of a good submission": dict([*honest.items()][:1]),
        }
    if not isinstance(honest, bytes) or not subject.is_table:
        return files
    text = honest.decode("utf-8", "replace")
    columns = subject.spec.columns
    header = f"{columns.id},{columns.answer}\n"
    return files | {
        "UTF-16": text.encode("utf-16"),
        "a byte order mark and CRLF": ("\ufeff" + text.replace("\n", "\r\n")).encode(),
        "bytes that are no UTF-8": honest.replace(b"\n", b"\xff\xfe\n"),
        "NULs": honest.replace(b",", b",\0"),
        "a quote that never ends": header.encode() + b'"' + honest,
        "a header without the answer": text.replace(columns.answer, "no_such_column", 1).encode(),
        "the header alone": header.encode(),
        "one answer alone": "".join(text.splitlines(keepends=True)[:2]).encode(),
        "rows of one cell": header.encode() + b"\n".join(line.split(b",")[0] for line in honest.splitlines()[1:]),
        "200,000 rows": header.encode() + b"x,y\n" * 200_000,
        "5,000 columns": ",".join([columns.id, columns.answer, *map(str, range(5000))]).encode() + b"\n0,1\n",
    }
