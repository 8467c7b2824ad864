"""The changes of each accepted candidate against the one it extended: its program, or its weights. Bounded."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from sia_runner.ground.plaintext import cut
from sia_runner.reading.curves import of_training
from sia_runner.reading.files import text
from sia_runner.reading.generations import Generation
from sia_runner.reading.harnesses import Change, difference
from sia_runner.report.groups import Group
from sia_runner.report.runs import Ran

SHOWN = 40  # changes of one group
FILES, LINES, COLUMNS = 12, 160, 240  # files of one change; lines of one file; characters of one line
WORDS = 4_000  # bytes of the proposer's notes on it


@dataclass(frozen=True, slots=True)
class Shown:
    """One file of a diff. `lines`: ``(sign, text)`` with sign "+", "-", "@" or " "; `left_out`: how many more."""

    path: str
    kind: str
    added: int
    removed: int
    lines: tuple[tuple[str, str], ...]
    left_out: int
    note: str


@dataclass(frozen=True, slots=True)
class Accepted:
    """An accepted candidate and its changes against its parent."""

    run: Ran
    generation: Generation
    before: Mapping[str, Any] | None  # val of its parent
    words: str  # improvement.md
    files: tuple[Shown, ...]
    more_files: int
    curves: Mapping[str, list[float]]


def accepted(group: Group) -> tuple[list[Accepted], int]:
    """Return the first `SHOWN` accepted candidates and the number of all. The first harness of a run is no change."""
    pairs = [(run, g) for run in group.runs for g in run.generations if g.status == "accepted" and g.parent is not None]
    return [_accepted(run, g) for run, g in pairs[:SHOWN]], len(pairs)


def _accepted(run: Ran, g: Generation) -> Accepted:
    files = difference(run.path, g.parent, g.n)
    curves = of_training(g.training) if g.training else {}
    return Accepted(
        run=run,
        generation=g,
        before=next((other.val for other in run.generations if other.n == g.parent), None),
        words=cut(text(run.path, f"gen_{g.n}/improvement.md", 4 * WORDS) or g.rationale, WORDS),
        files=tuple(_bounded_change(change) for change in files[:FILES]),
        more_files=max(0, len(files) - FILES),
        curves={name: [value for _, value in points] for name, points in curves.items()},
    )


def _bounded_change(change: Change) -> Shown:
    lines = tuple(_line(line) for line in change.lines[:LINES])
    left_out = len(change.lines) - len(lines)
    return Shown(change.path, change.kind, change.added, change.removed, lines, left_out, change.note)


def _line(line: str) -> tuple[str, str]:
    sign = line[:1] if line[:1] in ("+", "-", "@") else " "
    return sign, line if len(line) <= COLUMNS else f"{line[:COLUMNS]}…"


def kinds(group: Group) -> Iterator[tuple[str, str, int, dict[str, tuple[int, int]]]]:
    """Yield for each arm: label, split, number of runs, and outcome kind -> (first harness, best candidate)."""
    for side in group.sides:
        for split, of_run in (("test", _on_test), ("val", _on_val)):
            each = [both for run in side.runs if (both := of_run(run))]
            if each:
                names = dict.fromkeys(kind for both in each for counted in both for kind in counted)
                sums = {kind: tuple(sum(both[at].get(kind, 0) for both in each) for at in (0, 1)) for kind in names}
                yield side.label, split, len(each), {kind: (old, new) for kind, (old, new) in sums.items()}
                break


def _on_test(run: Ran) -> tuple[dict[str, int], dict[str, int]] | None:
    if run.first not in run.tests or run.best not in run.tests:
        return None
    return tuple(_counts(run.tests[n]["outcomes"]) for n in (run.first, run.best))  # type: ignore[return-value]


def _on_val(run: Ran) -> tuple[dict[str, int], dict[str, int]] | None:
    of = {g.n: dict(g.outcomes) for g in run.generations}
    first = next((g.n for g in run.generations if g.outcomes), None)
    return (of[first], of[run.best]) if first and run.best and of.get(run.best) else None


def _counts(value: Any) -> dict[str, int]:
    return (
        {str(kind): count for kind, count in value.items() if isinstance(count, int)} if isinstance(value, dict) else {}
    )
