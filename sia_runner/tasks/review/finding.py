"""The result of a review: faults that somebody has to mend, and figures that are good to know."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Finding:
    """A fault of a task. `code` is a short name for it, `where` a file or a key of the configuration."""

    code: str
    what: str
    where: str
    fix: str

    def __str__(self) -> str:
        return f"FINDING {self.code} · {self.what} · {self.where} · fix: {self.fix}"


@dataclass(slots=True)
class Review:
    """The findings and the notes of a review."""

    findings: list[Finding] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(self, findings: Iterable[Finding]) -> None:
        """Add the first finding of each kind at one place: one fault is reported once, however it shows."""
        reported = {(finding.code, finding.where) for finding in self.findings}
        for finding in findings:
            if (finding.code, finding.where) not in reported:
                reported.add((finding.code, finding.where))
                self.findings.append(finding)

    def lines(self) -> Iterator[str]:
        """Yield one line for each finding and each note."""
        yield from map(str, self.findings)
        yield from (f"noted: {note}" for note in self.notes)


Note = Callable[[str], None]
