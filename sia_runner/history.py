"""What the journal says happened: generations, the incumbent, time spent. Pure functions of its entries."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sia_runner.journal import Entry, Record
from sia_runner.records import Lever, Past, Score

STEPS = ("propose", "build", "gate", "run", "verify", "accept")


@dataclass(frozen=True, slots=True)
class Finished:
    """A generation with a verdict. `steps` holds the journaled result of each step it went through."""

    n: int
    steps: dict[str, Entry]
    seconds: dict[str, float]

    @property
    def status(self) -> str:
        return self.steps["accept"]["status"]

    @property
    def val(self) -> Score | None:
        val = self.steps.get("verify", {}).get("val")
        return Score.from_json(val) if val else None

    def as_past(self) -> Past:
        proposal = self.steps["propose"]
        return Past(
            n=self.n,
            lever=Lever(proposal["lever"]),
            title=proposal["title"],
            status=self.status,
            reason=self.steps["accept"]["reason"],
            val=self.val,
            notes=proposal["notes"],
            parent=proposal.get("parent"),
        )


def finished(journal: Record) -> list[Finished]:
    """Generations that have a verdict, in order."""
    steps: dict[int, dict[str, Entry]] = {}
    seconds: dict[int, dict[str, float]] = {}
    for entry in journal.of("done"):
        where, _, step = entry["step"].partition("/")
        if where.startswith("gen_"):
            n = int(where.removeprefix("gen_"))
            steps.setdefault(n, {})[step] = entry["result"]
            seconds.setdefault(n, {})[step] = entry["seconds"]
    return [Finished(n, steps[n], seconds[n]) for n in sorted(steps) if "accept" in steps[n]]


def incumbent(generations: Sequence[Finished]) -> int | None:
    """The newest accepted generation: each was accepted against the incumbent of its time."""
    return next((g.n for g in reversed(generations) if g.status == "accepted"), None)


def minutes_spent(journal: Record, n: int | None = None) -> float:
    """Wall time of all finished steps of generation `n`, or of all generations, over all resumes."""
    prefix = "gen_" if n is None else f"gen_{n}/"
    return sum(e["seconds"] for e in journal.of("done") if e["step"].startswith(prefix)) / 60


def test_of(journal: Record, n: int | None) -> dict[str, Any] | None:
    """Result of the test run of generation `n`, if there was one."""
    return None if n is None else journal.result(f"test/gen_{n}")
