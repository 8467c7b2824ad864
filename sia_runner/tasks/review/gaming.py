"""Submissions that should earn nothing, or no more than a constant: each tries one way around the work."""

from collections.abc import Iterator, Sequence

from sia_runner.tasks.review.finding import Finding, Note
from sia_runner.tasks.review.records import read_table
from sia_runner.tasks.review.subject import NONSENSE, Row, Subject

_EMPTY = ["", "  ", "nan", "inf", "-inf", "1e999", "None", "null", "[]", "0x0"]
_CHOICES = 50  # different answers given to every question


class Games:
    """Attacks on the verifier by tables that answer nothing honestly.

    `gold`: rows that answer all questions right. `honest` and `constant` are the scores of these, for comparison.
    """

    def __init__(self, subject: Subject, honest: float) -> None:
        self._subject, self.honest = subject, honest
        self.gold: list[Row] = list(subject.gold.items())
        self.half = self.gold[: len(self.gold) // 2]
        self._values: dict[tuple[Row, ...], float | None] = {}
        values = {
            answer: self._value([(name, answer) for name in subject.gold])
            for answer in dict.fromkeys(subject.constants)
        }
        scores = {answer: value for answer, value in values.items() if value is not None}
        best = max if subject.task.higher_is_better else min
        self.constant, self.answer = best((value, answer) for answer, value in scores.items()) if scores else (0.0, "")

    def findings(self, note: Note) -> Iterator[Finding]:
        """Try every attack."""
        yield from self.constant_wins(note)
        yield from self.nothing()
        yield from self.denominator()
        yield from self.duplicates()
        yield from self.unknown_ids()
        yield from self.own_scores()
        yield from self.samples()

    def constant_wins(self, note: Note) -> Iterator[Finding]:
        """Give one and the same answer to every question."""
        note(f"{self.answer[:40]!r} to every question scores {self.constant:.3f}, the gold answers {self.honest:.3f}")
        if self._subject.task.higher_is_better and self.constant >= 0.9:
            problem = f"{self.answer[:40]!r} to every question scores {self.constant:.3f}"
            yield self._found(
                "constant", problem, "balance the questions, or take a metric that a constant does not win"
            )

    def nothing(self) -> Iterator[Finding]:
        """Submit no file, no rows, no answers, and texts that look like a number without being one."""
        gold = {answer.strip().casefold() for _, answer in self.gold}
        empty = [text for text in _EMPTY if text.casefold() not in gold]
        mixed = [(name, empty[n % len(empty)]) for n, (name, _) in enumerate(self.gold)]
        tried = {"no row at all": self._value([]), "no file at all": self._file_value(None)}
        if (all_at_once := self._value(mixed)) is not None and self._earns(all_at_once):
            tried |= {
                f"{text!r} as every answer": self._value([(name, text) for name, _ in self.gold]) for text in empty
            }
        for what, value in tried.items():
            if value is not None and self._earns(value):
                fix = "give an answer that is none the worst value there is"
                yield self._found("empty-earns", f"{what} scores {value:.3f}", fix)

    def _earns(self, value: float) -> bool:
        """Return True when the score is more than nothing.

        Where lower is better there is no nothing: then True when it is as good as answering.
        """
        if self._subject.task.higher_is_better:
            return value > max(0.0, self._value([(name, NONSENSE) for name, _ in self.gold]) or 0.0) + 1e-9
        return self._subject.better(value, self.constant)

    def denominator(self) -> Iterator[Finding]:
        """Answer one question right and no other."""
        value = self._value(self.gold[:1])
        if value is not None and len(self.gold) > 3 and not self._below(value):
            problem = f"one right answer and nothing else scores {value:.3f} on {len(self.gold)} questions"
            yield self._found("denominator", problem, "divide by the questions asked, not by the answers given")

    def _below(self, value: float) -> bool:
        """Return True when the score is clearly worse than that of all answers right."""
        if self._subject.task.higher_is_better:
            return value <= self.honest * 0.75
        return self._subject.better(self.honest, value)

    def duplicates(self) -> Iterator[Finding]:
        """Answer questions more than once."""
        fix = "let an id that is answered twice earn nothing"
        half, single_right = self._value(self.half), self._value(self.gold[:1])
        doubled, repeated = self._value(self.half * 2), self._value(self.gold[:1] * (5 * len(self.gold)))
        for name, value, once in (
            ("half of the rows twice", doubled, half),
            ("one right row again and again", repeated, single_right),
        ):
            if value is not None and once is not None and self._subject.better(value, once):
                yield self._found("duplicates", f"{name} scores {value:.3f}, each once {once:.3f}", fix)
        answers = sorted({answer for _, answer in self.gold})[:_CHOICES]
        everything = self._value([(name, answer) for name, _ in self.gold for answer in answers])
        between = (self.constant + self.honest) / 2
        if len(answers) > 1 and everything is not None and self._subject.better(everything, between):
            problem = f"every possible answer to every question scores {everything:.3f}"
            yield self._found("duplicates", problem, fix)

    def unknown_ids(self) -> Iterator[Finding]:
        """Add rows with unknown ids."""
        half = self._value(self.half)
        answers = [answer for _, answer in self.gold]
        extra = self._value([*self.half, *((f"no such id {n}", answer) for n, answer in enumerate(answers))])
        if half is not None and extra is not None and abs(extra - half) > 1e-9:
            problem = f"rows of unknown ids change a score from {half:.3f} to {extra:.3f}"
            yield self._found("unknown-ids", problem, "look at the ids that are asked, and at no others")

    def own_scores(self) -> Iterator[Finding]:
        """Submit nonsense beside files that claim a score.

        Such files of a harness are copied beside its submission, for people.
        """
        claim = '{"score": 1.0, "accuracy": 1.0, "correct": true, "value": 1.0}'
        rows = [(name, NONSENSE) for name, _ in self.gold]
        names = ("agent_execution.json", "results.json", "scores.json")
        with_claim = self._subject.verify(self._subject.submit(rows, others=dict.fromkeys(names, claim))).value
        without = self._value(rows)
        if with_claim is not None and without is not None and self._subject.better(with_claim, without):
            problem = f"a harness that writes its own scores earns {with_claim:.3f} with nonsense"
            yield self._found("trusts-harness", problem, "read the submission file alone")

    def samples(self) -> Iterator[Finding]:
        """Submit extra files that look like a submission, as they are or with the ids of the view."""
        columns, extra = self._subject.spec.columns, self._subject.spec.data.extra
        for name in (name for name in extra if name.endswith(".csv")):
            rows = read_table(self._subject.attack_view.path / name)
            if not rows or columns.answer not in rows[0]:
                continue
            answers = [row[columns.answer] or "" for row in rows]
            in_order = [(view_id, answer) for (view_id, _), answer in zip(self.gold, answers, strict=False)]
            for rows_tried in (
                [(row.get(columns.id) or "", answer) for row, answer in zip(rows, answers, strict=True)],
                in_order,
            ):
                value = self._value(rows_tried)
                if value is not None and self._subject.better(value, (self.constant + self.honest) / 2):
                    yield Finding("sample-earns", f"a copy of it scores {value:.3f}", f"task.data.extra {name}",
                                  "fill a sample submission with one constant answer")  # fmt: skip

    def _value(self, rows: Sequence[Row]) -> float | None:
        """Return the score of these rows; None where the verifier fails."""
        key = tuple(rows)
        if key not in self._values:
            self._values[key] = self._subject.verify_rows(rows).value
        return self._values[key]

    def _file_value(self, data: bytes | None) -> float | None:
        return self._subject.verify(self._subject.submit_bytes(data)).value

    def _found(self, code: str, what: str, fix: str) -> Finding:
        return Finding(code, what, self._subject.verifier_name, fix)
