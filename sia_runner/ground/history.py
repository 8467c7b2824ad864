"""What the journal says happened: generations, the incumbent, time spent. Pure functions of its entries."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sia_runner.ground.journal import Entry, Record
from sia_runner.records import Lever, Past, Score

SIGN_OFF = "sign-off: "  # what the reason begins with of a candidate whose plan a person rejected
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


def weights_rejected(history: Sequence[Past]) -> bool:
    """Was the newest candidate a weights update whose plan a person rejected? It must not come back at once."""
    return bool(history) and history[-1].lever is not Lever.HARNESS and history[-1].reason.startswith(SIGN_OFF)


def minutes_spent(journal: Record, n: int | None = None) -> float:
    """Wall time of all finished steps of generation `n`, or of all generations, over all resumes. What several
    generations spent at the same time counts once."""
    prefix = "gen_" if n is None else f"gen_{n}/"
    steps = [entry for entry in journal.of("done") if entry["step"].startswith(prefix)]
    if n is not None:
        return sum(entry["seconds"] for entry in steps) / 60
    covered = until = 0.0
    for began, ended in sorted((_at(entry) - entry["seconds"], _at(entry)) for entry in steps):
        covered += max(0.0, ended - max(began, until))
        until = max(until, ended)
    return covered / 60


def _at(entry: Entry) -> float:
    return datetime.fromisoformat(entry["at"]).timestamp()


def answer_to(journal: Record, n: int) -> Entry | None:
    """What a person answered to the plan of generation `n`: `approved` or `rejected`; None while nobody has."""
    return next((e for event in ("approved", "rejected") for e in journal.of(event) if e["n"] == n), None)


def waiting(journal: Record) -> int | None:
    """The generation whose plan waits for a person's answer."""
    steps = (entry["step"].partition("/") for entry in journal.of("done"))
    planned = [int(where.removeprefix("gen_")) for where, _, step in steps if step == "plan"]
    return next((n for n in planned if answer_to(journal, n) is None), None)


def test_of(journal: Record, n: int | None) -> dict[str, Any] | None:
    """Result of the test run of generation `n`, if there was one."""
    return None if n is None else journal.result(f"test/gen_{n}")
