"""Submissions that should earn nothing, or no more than a constant: each tries one way around the work."""

from collections.abc import Iterator, Sequence

from sia_runner.tasks.review.finding import Finding, Note
from sia_runner.tasks.review.judging import NONSENSE
from sia_runner.tasks.review.records import read_table
from sia_runner.tasks.review.subject import Row, Subject

_EMPTY = ["", "  ", "nan", "inf", "-inf", "1e999", "None", "null", "[]", "0x0"]
_CHOICES = 50  # different answers given to every question


class Games:
    """`gold`: rows that answer all questions right. `honest` and `constant` are what these earn, for comparison."""

    def __init__(self, subject: Subject, honest: float) -> None:
        self._subject, self.honest = subject, honest
        self.gold: list[Row] = list(subject.gold.items())
        self.half = self.gold[: len(self.gold) // 2]
        self._values: dict[tuple[Row, ...], float | None] = {}
        values = {
            answer: self._value([(name, answer) for name in subject.gold])
            for answer in dict.fromkeys(subject.constants)
        }
        known = {answer: value for answer, value in values.items() if value is not None}
        pick = max if subject.task.higher_is_better else min
        self.constant, self.answer = pick((value, answer) for answer, value in known.items()) if known else (0.0, "")

    def findings(self, note: Note) -> Iterator[Finding]:
        yield from self.constant_wins(note)
        yield from self.nothing()
        yield from self.denominator()
        yield from self.duplicates()
        yield from self.strangers()
        yield from self.own_scores()
        yield from self.samples()

    def constant_wins(self, note: Note) -> Iterator[Finding]:
        note(f"{self.answer[:40]!r} to every question scores {self.constant:.3f}, the gold answers {self.honest:.3f}")
        if self._subject.task.higher_is_better and self.constant >= 0.9:
            what = f"{self.answer[:40]!r} to every question scores {self.constant:.3f}"
            yield self._found("constant", what, "balance the questions, or take a metric that a constant does not win")

    def nothing(self) -> Iterator[Finding]:
        """No file, no rows, no answers, and what reads as a number without being one."""
        gold = {answer.strip().casefold() for _, answer in self.gold}
        empty = [text for text in _EMPTY if text.casefold() not in gold]
        mixed = [(name, empty[n % len(empty)]) for n, (name, _) in enumerate(self.gold)]
        tried = {"no row at all": self._value([]), "no file at all": self._judged(None)}
        if (all_at_once := self._value(mixed)) is not None and self._earns(all_at_once):
            tried |= {
                f"{text!r} as every answer": self._value([(name, text) for name, _ in self.gold]) for text in empty
            }
        for what, value in tried.items():
            if value is not None and self._earns(value):
                fix = "give an answer that is none the worst value there is"
                yield self._found("empty-earns", f"{what} scores {value:.3f}", fix)

    def _earns(self, value: float) -> bool:
        """More than nothing, or as good as answering: where lower is better there is no nothing."""
        if self._subject.task.higher_is_better:
            return value > max(0.0, self._value([(name, NONSENSE) for name, _ in self.gold]) or 0.0) + 1e-9
        return self._subject.better(value, self.constant)

    def denominator(self) -> Iterator[Finding]:
        one = self._value(self.gold[:1])
        if one is not None and len(self.gold) > 3 and not self._below(one):
            what = f"one right answer and nothing else scores {one:.3f} on {len(self.gold)} questions"
            yield self._found("denominator", what, "divide by the questions asked, not by the answers given")

    def _below(self, value: float) -> bool:
        """Clearly worse than all answers right."""
        if self._subject.task.higher_is_better:
            return value <= self.honest * 0.75
        return self._subject.better(self.honest, value)

    def duplicates(self) -> Iterator[Finding]:
        fix = "let an id that is answered twice earn nothing"
        half, one = self._value(self.half), self._value(self.gold[:1])
        doubled, repeated = self._value(self.half * 2), self._value(self.gold[:1] * (5 * len(self.gold)))
        for name, value, single in (
            ("half of the rows twice", doubled, half),
            ("one right row again and again", repeated, one),
        ):
            if value is not None and single is not None and self._subject.better(value, single):
                yield self._found("duplicates", f"{name} scores {value:.3f}, each once {single:.3f}", fix)
        answers = sorted({answer for _, answer in self.gold})[:_CHOICES]
        everything = self._value([(name, answer) for name, _ in self.gold for answer in answers])
        between = (self.constant + self.honest) / 2
        if len(answers) > 1 and everything is not None and self._subject.better(everything, between):
            what = f"every possible answer to every question scores {everything:.3f}"
            yield self._found("duplicates", what, fix)

    def strangers(self) -> Iterator[Finding]:
        half = self._value(self.half)
        answers = [answer for _, answer in self.gold]
        extra = self._value([*self.half, *((f"no such id {n}", answer) for n, answer in enumerate(answers))])
        if half is not None and extra is not None and abs(extra - half) > 1e-9:
            what = f"rows of unknown ids change a score from {half:.3f} to {extra:.3f}"
            yield self._found("unknown-ids", what, "look at the ids that are asked, and at no others")

    def own_scores(self) -> Iterator[Finding]:
        """What a harness says about itself is copied beside its submission, for people."""
        told = '{"score": 1.0, "accuracy": 1.0, "correct": true, "value": 1.0}'
        rows = [(name, NONSENSE) for name, _ in self.gold]
        names = ("agent_execution.json", "results.json", "scores.json")
        with_own = self._subject.judge(self._subject.submit(rows, others=dict.fromkeys(names, told))).value
        plainly = self._value(rows)
        if with_own is not None and plainly is not None and self._subject.better(with_own, plainly):
            what = f"a harness that writes its own scores earns {with_own:.3f} with nonsense"
            yield self._found("trusts-harness", what, "read the submission file alone")

    def samples(self) -> Iterator[Finding]:
        """Extra files that look like a submission, handed in as they are or with the ids of the view."""
        columns, extra = self._subject.spec.columns, self._subject.spec.data.extra
        for name in (name for name in extra if name.endswith(".csv")):
            rows = read_table(self._subject.asked.path / name)
            if not rows or columns.answer not in rows[0]:
                continue
            answers = [row[columns.answer] or "" for row in rows]
            by_place = [(view_id, answer) for (view_id, _), answer in zip(self.gold, answers, strict=False)]
            for copy in (
                [(row.get(columns.id) or "", answer) for row, answer in zip(rows, answers, strict=True)],
                by_place,
            ):
                value = self._value(copy)
                if value is not None and self._subject.better(value, (self.constant + self.honest) / 2):
                    yield Finding("sample-earns", f"a copy of it scores {value:.3f}", f"task.data.extra {name}",
                                  "fill a sample submission with one constant answer")  # fmt: skip

    def _value(self, rows: Sequence[Row]) -> float | None:
        """What these rows earn; None where the judge fails."""
        key = tuple(rows)
        if key not in self._values:
            self._values[key] = self._subject.answered(rows).value
        return self._values[key]

    def _judged(self, data: bytes | None) -> float | None:
        return self._subject.judge(self._subject.submit_bytes(data)).value

    def _found(self, code: str, what: str, fix: str) -> Finding:
        return Finding(code, what, self._subject.judge_name, fix)
