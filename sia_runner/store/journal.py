"""The journal is the record of a run: append-only, one JSON object a line, each with the hash of the line before.

A step is bracketed by `start` and `done`; a step without `done` never counted and is repeated on resume. If it runs as
a job, an entry `job` between the two names that, so that a resume finds it. Pure functions read the history of the run
from the entries: generations, the incumbent, time spent."""

import errno
import hashlib
import json
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sia_runner.records import Lever, PastGeneration, Score
from sia_runner.store.run_directory import RunDirectoryError

JournalEntry = dict[str, Any]
_FIRST_HASH = "0" * 64


class JournalError(RunDirectoryError):
    """The journal was edited or damaged; the message names the line."""


def read_journal(path: Path) -> tuple[list[JournalEntry], int, str]:
    """Return the entries, the length in bytes of the intact part, and the hash of its last line.

    Only the last line may be cut (a kill while writing); anything else raises JournalError.
    """
    raw = path.read_bytes()
    entries: list[JournalEntry] = []
    previous_hash, intact_bytes = _FIRST_HASH, 0
    for number, line in enumerate(raw.splitlines(keepends=True), 1):
        if not line.endswith(b"\n"):
            break
        try:
            entry = json.loads(line)
        except ValueError:
            raise JournalError(f"{path.name} line {number} is not JSON: the journal was damaged or edited") from None
        if not isinstance(entry, dict) or entry.get("prev") != previous_hash or entry.get("seq") != number:
            raise JournalError(f"{path.name} line {number} does not follow from line {number - 1}: it was edited")
        entries.append(entry)
        previous_hash = hashlib.sha256(line.rstrip(b"\n")).hexdigest()
        intact_bytes += len(line)
    return entries, intact_bytes, previous_hash


class JournalReader:
    """A journal opened for reading; raises RunError if there is none, JournalError if its hash chain is broken."""

    def __init__(self, path: Path) -> None:
        if not path.is_file():
            raise RunDirectoryError(f"{path.parent}: no run there ({path.name} is missing)")
        self.entries, self._intact_bytes, self._last = read_journal(path)

    @property
    def head(self) -> str:
        """The hash of the newest line; with a copy of it, any later change of the journal up to there shows."""
        return self._last

    def of(self, event: str) -> Iterator[JournalEntry]:
        """Return the entries of one kind of event, oldest first."""
        return (entry for entry in self.entries if entry["event"] == event)

    def result(self, step: str) -> JournalEntry | None:
        """Return the result of `step` if this or an earlier process did it, else None."""
        return next((entry["result"] for entry in self.of("done") if entry["step"] == step), None)

    def job(self, step: str) -> str | None:
        """Return the newest job that was submitted for `step`; None once the step is done."""
        if self.result(step) is not None:
            return None
        return next((entry["job"] for entry in reversed(self.entries) if _is_job_of(entry, step)), None)


def _is_job_of(entry: JournalEntry, step: str) -> bool:
    return entry["event"] == "job" and entry["step"] == step


class Journal(JournalReader):
    """The journal of the only writer of a run directory (see lease.py); every append is on disk when it returns."""

    def __init__(self, path: Path) -> None:
        path.touch()
        super().__init__(path)
        self._path = path
        self._lock = threading.Lock()  # several candidates may run in parallel
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND)
        dropped = self._drop_partial_line()
        if dropped:
            self.append("recovered", dropped_bytes=dropped)

    def _drop_partial_line(self) -> int:
        """Remove a last line that was cut off; return the number of bytes removed."""
        rest = os.fstat(self._file).st_size - self._intact_bytes
        if rest:
            os.ftruncate(self._file, self._intact_bytes)
        return rest

    def append(self, event: str, **fields: Any) -> JournalEntry:
        """Append an entry and return it; raises OSError on a full disk, which leaves the journal intact."""
        with self._lock:
            return self._append(event, fields)

    def _append(self, event: str, fields: JournalEntry) -> JournalEntry:
        self._catch_up()
        timestamp = datetime.now(UTC).isoformat(timespec="milliseconds")
        entry = {"seq": len(self.entries) + 1, "at": timestamp, "event": event, **fields, "prev": self._last}
        # a lone surrogate (hostile output) becomes its JSON escape and reads back as it was
        line = json.dumps(entry, ensure_ascii=False, allow_nan=False).encode(errors="backslashreplace")
        if os.write(self._file, line + b"\n") != len(line) + 1:
            self._drop_partial_line()
            raise OSError(errno.ENOSPC, "the disk is full; free some space and resume", str(self._path))
        os.fsync(self._file)
        self._last = hashlib.sha256(line).hexdigest()
        self._intact_bytes += len(line) + 1
        self.entries.append(entry)
        return entry

    def _catch_up(self) -> None:
        """Reread the file if a signal's exception interrupted the append before, which may or may not be on disk."""
        if os.fstat(self._file).st_size == self._intact_bytes:
            return
        entries, self._intact_bytes, self._last = read_journal(self._path)
        self.entries.extend(entries[len(self.entries) :])
        self._drop_partial_line()

    def once(self, step: str, work: Callable[[], JournalEntry]) -> JournalEntry:
        """Return the result of `step` from the journal, or do it now and record it."""
        recorded = self.result(step)
        if recorded is not None:
            return recorded
        self.append("start", step=step)
        start = time.monotonic()
        result = work()
        self.append("done", step=step, seconds=round(time.monotonic() - start, 3), result=result)
        return result

    def close(self) -> None:
        """Close the file; a thread that still works on a step can no longer append."""
        with self._lock:
            os.close(self._file)
            self._file = -1


SIGN_OFF_PREFIX = "sign-off: "  # prefix of the reason of a candidate whose plan a person rejected
GENERATION_STEPS = ("propose", "build", "gate", "run", "verify", "accept")


@dataclass(frozen=True, slots=True)
class FinishedGeneration:
    """A generation with a verdict. `steps` holds the journaled result of each step it went through."""

    n: int
    steps: dict[str, JournalEntry]
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

    def to_past_generation(self) -> PastGeneration:
        """Return what a proposer may see of this generation."""
        proposal = self.steps["propose"]
        return PastGeneration(
            n=self.n,
            lever=Lever(proposal["lever"]),
            title=proposal["title"],
            status=self.status,
            reason=self.steps["accept"]["reason"],
            val=self.val,
            notes=proposal["notes"],
            parent=proposal.get("parent"),
        )


def finished_generations(journal: JournalReader) -> list[FinishedGeneration]:
    """Return the generations that have a verdict, in order."""
    steps: dict[int, dict[str, JournalEntry]] = {}
    seconds: dict[int, dict[str, float]] = {}
    for entry in journal.of("done"):
        folder, _, step = entry["step"].partition("/")
        if folder.startswith("gen_"):
            n = int(folder.removeprefix("gen_"))
            steps.setdefault(n, {})[step] = entry["result"]
            seconds.setdefault(n, {})[step] = entry["seconds"]
    return [FinishedGeneration(n, steps[n], seconds[n]) for n in sorted(steps) if "accept" in steps[n]]


def find_incumbent(generations: Sequence[FinishedGeneration]) -> int | None:
    """Return the newest accepted generation: each was accepted against the incumbent of its time."""
    return next((g.n for g in reversed(generations) if g.status == "accepted"), None)


def weights_plan_rejected(history: Sequence[PastGeneration]) -> bool:
    """Return True if a person rejected the plan of the newest weights update, which must not be repeated at once."""
    return bool(history) and history[-1].lever is not Lever.HARNESS and history[-1].reason.startswith(SIGN_OFF_PREFIX)


def minutes_spent(journal: JournalReader, n: int | None = None) -> float:
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


def _timestamp(entry: JournalEntry) -> float:
    return datetime.fromisoformat(entry["at"]).timestamp()


def approval_entry(journal: JournalReader, n: int) -> JournalEntry | None:
    """Return the entry `approved` or `rejected` that answers the plan of generation `n`; None while unanswered."""
    return next((e for event in ("approved", "rejected") for e in journal.of(event) if e["n"] == n), None)


def generation_awaiting_approval(journal: JournalReader) -> int | None:
    """Return the generation whose plan waits for a person's answer."""
    steps = (entry["step"].partition("/") for entry in journal.of("done"))
    planned = [int(folder.removeprefix("gen_")) for folder, _, step in steps if step == "plan"]
    return next((n for n in planned if approval_entry(journal, n) is None), None)


def test_result_of(journal: JournalReader, n: int | None) -> dict[str, Any] | None:
    """Return the result of the test run of generation `n`, if there was one."""
    return None if n is None else journal.result(f"test/gen_{n}")
