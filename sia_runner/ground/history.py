"""Pure functions read the history of a run from its journal: generations, the incumbent, time spent."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sia_runner.ground.journal import Entry, Record
from sia_runner.records import Lever, Past, Score

SIGN_OFF = "sign-off: "  # prefix of the reason of a candidate whose plan a person rejected
STEPS = ("propose", "build", "gate", "run", "verify", "accept")


@dataclass(frozen=True, slots=True)
class Finished:
    """A generation with a verdict. `steps` holds the journaled result of each step it went through."""

    n: int
    steps: dict[str, Entry]
    seconds: dict[str, float]

    @property
    def status(self) -> str:
        """The verdict: accepted, rejected, failed or unscored."""
        return self.steps["accept"]["status"]

    @property
    def val(self) -> Score | None:
        """The score on val; None for a candidate without one."""
        val = self.steps.get("verify", {}).get("val")
        return Score.from_json(val) if val else None

    def as_past(self) -> Past:
        """Return what a proposer may see of this generation."""
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
    """Return the generations that have a verdict, in order."""
    steps: dict[int, dict[str, Entry]] = {}
    seconds: dict[int, dict[str, float]] = {}
    for entry in journal.of("done"):
        folder, _, step = entry["step"].partition("/")
        if folder.startswith("gen_"):
            n = int(folder.removeprefix("gen_"))
            steps.setdefault(n, {})[step] = entry["result"]
            seconds.setdefault(n, {})[step] = entry["seconds"]
    return [Finished(n, steps[n], seconds[n]) for n in sorted(steps) if "accept" in steps[n]]


def incumbent(generations: Sequence[Finished]) -> int | None:
    """Return the newest accepted generation: each was accepted against the incumbent of its time."""
    return next((g.n for g in reversed(generations) if g.status == "accepted"), None)


def weights_rejected(history: Sequence[Past]) -> bool:
    """Return True if a person rejected the plan of the newest weights update, which must not be repeated at once."""
    return bool(history) and history[-1].lever is not Lever.HARNESS and history[-1].reason.startswith(SIGN_OFF)


def minutes_spent(journal: Record, n: int | None = None) -> float:
    """Return the minutes of wall time of all finished steps of generation `n`, or of all generations.

    All resumes count. Time that several generations spent in parallel counts once.
    """
    prefix = "gen_" if n is None else f"gen_{n}/"
    steps = [entry for entry in journal.of("done") if entry["step"].startswith(prefix)]
    if n is not None:
        return sum(entry["seconds"] for entry in steps) / 60
    covered = until = 0.0
    for start, end in sorted((_timestamp(entry) - entry["seconds"], _timestamp(entry)) for entry in steps):
        covered += max(0.0, end - max(start, until))
        until = max(until, end)
    return covered / 60


def _timestamp(entry: Entry) -> float:
    return datetime.fromisoformat(entry["at"]).timestamp()


def answer_to(journal: Record, n: int) -> Entry | None:
    """Return the entry `approved` or `rejected` that answers the plan of generation `n`; None while unanswered."""
    return next((e for event in ("approved", "rejected") for e in journal.of(event) if e["n"] == n), None)


def waiting(journal: Record) -> int | None:
    """Return the generation whose plan waits for a person's answer."""
    steps = (entry["step"].partition("/") for entry in journal.of("done"))
    planned = [int(folder.removeprefix("gen_")) for folder, _, step in steps if step == "plan"]
    return next((n for n in planned if answer_to(journal, n) is None), None)


def test_of(journal: Record, n: int | None) -> dict[str, Any] | None:
    """Return the result of the test run of generation `n`, if there was one."""
    return None if n is None else journal.result(f"test/gen_{n}")
