"""The journal is the record of a run: append-only, one JSON object a line, each with the hash of the line before.

A step is bracketed by `start` and `done`; a step without `done` never counted and is repeated on resume. If it runs as
a job, an entry `job` between the two names that, so that a resume finds it.
"""

import errno
import hashlib
import json
import os
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sia_runner.records import Json, Lever, PastGeneration
from sia_runner.store.files import LineReader, file_stamp, parse_object
from sia_runner.store.generations import GenerationRecord
from sia_runner.store.run_directory import RunDirectoryError

_FIRST_HASH = "0" * 64
_MAX_ENTRY_BYTES = 64 << 20  # bytes of a line
_SLICE_BYTES = 64 << 20  # bytes that a tolerant reader reads at a time


class JournalError(RunDirectoryError):
    """The journal was edited or damaged; the message names the line."""


class JournalReader:
    """A journal opened for reading; `refresh` reads what was added. A last line that a kill has cut is not read.

    A strict reader raises JournalError for a line that does not follow from the one before, and RunDirectoryError
    without a journal. A tolerant one goes on: `fault` names the first such line.
    """

    def __init__(self, path: Path, *, strict: bool = True) -> None:
        self._path, self._strict = path, strict
        if strict and file_stamp(path.parent, path.name) is None:
            raise RunDirectoryError(f"{path.parent}: no run there ({path.name} is missing)")
        self._lines = LineReader(path.parent, path.name, _MAX_ENTRY_BYTES)
        self._clear()
        if strict:
            self.refresh()

    def _clear(self) -> None:
        self.entries: list[Json] = []
        self.fault = ""
        self.head = _FIRST_HASH  # hash of the newest line: with a copy of it, any later change up to there shows

    def refresh(self) -> bool:
        """Read new lines. Return True if there were any."""
        before = len(self.entries)
        for line in self._lines.fresh(1 << 62 if self._strict else _SLICE_BYTES):
            if self._lines.restarted:
                self._clear()
                self._lines.restarted, before = False, -1
            number, entry = len(self.entries) + 1, parse_object(line.data)
            if entry is None:
                self._report(f"line {number} ", "is not JSON: the journal was damaged or edited")
                continue
            if entry.get("prev") != self.head or entry.get("seq") != number:
                self._report(f"line {number} ", f"does not follow from line {number - 1}: it was edited")
            self.head = hashlib.sha256(line.data).hexdigest()
            self.entries.append(entry)
        if self._lines.too_long:
            self._report("", f"has a line of more than {_MAX_ENTRY_BYTES >> 20} MiB")
        return len(self.entries) != before

    def _report(self, where: str, problem: str) -> None:
        self.fault = self.fault or f"{self._path.name} {where}{problem}"
        if self._strict:
            raise JournalError(self.fault)

    def of(self, event: str) -> Iterator[Json]:
        """Return the entries of one kind of event, oldest first."""
        return (entry for entry in self.entries if entry.get("event") == event)

    def done(self) -> Iterator[tuple[str, Json]]:
        """Return the finished steps and their entries. Malformed entries are skipped."""
        for entry in self.of("done"):
            if isinstance(entry.get("step"), str) and isinstance(entry.get("result"), dict):
                yield entry["step"], entry

    def result(self, step: str) -> Json | None:
        """Return the result of `step` if this or an earlier process did it, else None."""
        return next((entry["result"] for name, entry in self.done() if name == step), None)

    def job(self, step: str) -> str | None:
        """Return the newest job that was submitted for `step`; None once the step is done."""
        if self.result(step) is not None:
            return None
        return next((entry["job"] for entry in reversed([*self.of("job")]) if entry.get("step") == step), None)

    def jobs(self) -> list[dict[str, str]]:
        """Return the jobs, the newest first, as ``{"step", "kind", "job", "folder", "at", "state"}``."""
        states = {step: "done" for step, _ in self.done()}
        rows: list[dict[str, str]] = []
        for entry in reversed([*self.of("job")]):
            row = {key: str(entry.get(key, "")) for key in ("step", "kind", "job", "folder", "at")}
            rows.append(row | {"state": states.get(row["step"], "under way")})
            states[row["step"]] = "replaced"  # an earlier job of the same step
        return rows

    def under_way(self) -> dict[str, str]:
        """Return the steps that the newest process started and has not finished -> since when (ISO 8601)."""
        steps: dict[str, str] = {}
        for entry in self.entries:
            step, event = str(entry.get("step", "")), entry.get("event")
            if event == "start":
                steps[step] = str(entry.get("at", ""))
            elif event == "done":
                steps.pop(step, None)
            elif event in ("resumed", "ended", "interrupted"):
                steps.clear()
        return steps


class Journal(JournalReader):
    """The journal of the only writer of a run directory (see lease.py); every append is on disk when it returns."""

    def __init__(self, path: Path) -> None:
        path.touch()
        super().__init__(path)
        self._lock = threading.Lock()  # several candidates may run in parallel
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND)
        self._synced = True  # whether all of the file was read
        if dropped := self._drop_partial_line():
            self.append("recovered", dropped_bytes=dropped)

    def _drop_partial_line(self) -> int:
        """Remove a last line that was cut off; return the number of bytes removed."""
        rest = os.fstat(self._file).st_size - self._lines.offset
        if rest:
            os.ftruncate(self._file, self._lines.offset)
        return rest

    def append(self, event: str, **fields: Any) -> Json:
        """Append an entry and return it; raises OSError on a full disk, which leaves the journal intact."""
        with self._lock:
            if not self._synced:  # a signal's exception interrupted the append before, which may or may not be on disk
                super().__init__(self._path)  # read it again
                self._drop_partial_line()
            timestamp = datetime.now(UTC).isoformat(timespec="milliseconds")
            entry = {"seq": len(self.entries) + 1, "at": timestamp, "event": event, **fields, "prev": self.head}
            # a lone surrogate (hostile output) becomes its JSON escape and reads back as it was
            line = json.dumps(entry, ensure_ascii=False, allow_nan=False).encode(errors="backslashreplace") + b"\n"
            self._synced = False
            if os.write(self._file, line) != len(line):
                self._drop_partial_line()
                self._synced = True
                raise OSError(errno.ENOSPC, "the disk is full; free some space and resume", str(self._path))
            os.fsync(self._file)
            self.refresh()
            self._synced = True
            return self.entries[-1]

    def once(self, step: str, work: Callable[[], Json]) -> Json:
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


def read_generations(journal: JournalReader, alive: bool = False) -> list[GenerationRecord]:
    """Return the generations in order, also those without a verdict. `alive`: a process still works on the run."""
    results: defaultdict[int, dict[str, Json]] = defaultdict(dict)
    seconds: defaultdict[int, Json] = defaultdict(dict)
    started: defaultdict[int, dict[str, str]] = defaultdict(dict)
    for name, entry in journal.done():
        if position := _position(name):
            n, step = position
            results[n][step], seconds[n][step] = entry["result"], entry.get("seconds")
    for name, since in journal.under_way().items():
        if position := _position(name):
            n, step = position
            started[n][step] = since
    numbers = sorted({*results, *started})
    return [GenerationRecord.of(n, results[n], seconds[n], started[n], alive=alive) for n in numbers]


def _position(step: str) -> tuple[int, str] | None:
    """Split a step name: ``gen_3/run`` -> (3, "run"). Return None for other steps."""
    where, _, name = step.partition("/")
    number = where.removeprefix("gen_")
    return (int(number), name) if number != where and number.isdecimal() and len(number) < 7 else None


def finished_generations(journal: JournalReader) -> list[GenerationRecord]:
    """Return the generations that have a verdict, in order."""
    return [generation for generation in read_generations(journal) if "accept" in generation.steps]


def find_incumbent(generations: Sequence[GenerationRecord]) -> int | None:
    """Return the newest accepted generation: each was accepted against the incumbent of its time."""
    return next((g.n for g in reversed(generations) if g.status == "accepted"), None)


def weights_plan_rejected(history: Sequence[PastGeneration]) -> bool:
    """Return True if a person rejected the plan of the newest weights update, which must not be repeated at once."""
    return bool(history) and history[-1].lever is not Lever.HARNESS and history[-1].reason.startswith(SIGN_OFF_PREFIX)


def minutes_spent(journal: JournalReader, n: int | None = None) -> float:
    """Return the minutes of all finished steps of generation `n`, or of all, where parallel time counts once."""
    if n is not None:
        return sum(entry["seconds"] for step, entry in journal.done() if step.startswith(f"gen_{n}/")) / 60
    spans: list[tuple[float, float]] = []
    for step, entry in journal.done():
        if step.startswith("gen_"):
            with suppress(KeyError, TypeError, ValueError):
                end = datetime.fromisoformat(entry["at"]).timestamp()
                spans.append((end - float(entry["seconds"]), end))
    covered = until = 0.0
    for start, end in sorted(spans):
        covered += max(0.0, end - max(start, until))
        until = max(until, end)
    return covered / 60


def approval_entry(journal: JournalReader, n: int) -> Json | None:
    """Return the entry `approved` or `rejected` that answers the plan of generation `n`; None while unanswered."""
    return next((e for event in ("approved", "rejected") for e in journal.of(event) if e["n"] == n), None)


def generation_awaiting_approval(journal: JournalReader) -> int | None:
    """Return the generation whose plan waits for a person's answer."""
    positions = (_position(step) for step, _ in journal.done())
    planned = [position[0] for position in positions if position and position[1] == "plan"]
    return next((n for n in planned if approval_entry(journal, n) is None), None)


def test_result_of(journal: JournalReader, n: int | None) -> Json | None:
    """Return the result of the test run of generation `n`, if there was one."""
    return None if n is None else journal.result(f"test/gen_{n}")
