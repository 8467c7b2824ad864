"""What a review finds: faults that somebody has to mend, and figures that are good to know."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Finding:
    """`code` is a short name for it, `where` a file or a key of the configuration."""

    code: str
    what: str
    where: str
    fix: str

    def __str__(self) -> str:
        return f"FINDING {self.code} · {self.what} · {self.where} · fix: {self.fix}"


@dataclass(slots=True)
class Review:
    findings: list[Finding] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(self, found: Iterable[Finding]) -> None:
        """The first of each kind at one place: a hole is one hole, however many ways lead through it."""
        known = {(one.code, one.where) for one in self.findings}
        for one in found:
            if (one.code, one.where) not in known:
                known.add((one.code, one.where))
                self.findings.append(one)

    def lines(self) -> Iterator[str]:
        yield from map(str, self.findings)
        yield from (f"noted: {note}" for note in self.notes)


Note = Callable[[str], None]
