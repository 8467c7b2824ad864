"""A reader of a journal as it grows, which tolerates damaged lines."""

import hashlib
import json
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from sia_runner.reading.lines import Lines

Entry = dict[str, Any]


class Journal:
    """The entries read so far. `fault` names the first line that does not follow from the one before."""

    def __init__(self, run: Path) -> None:
        self._lines = Lines(run, "journal.jsonl")
        self._clear()

    def refresh(self) -> bool:
        """Read new lines. Return True if there were any."""
        before = len(self.entries)
        again = False
        for line in self._lines.fresh():
            if self._lines.restarted and not again:
                self._clear()
                again, before = True, -1
            self._add(line.data)
        return len(self.entries) != before

    def of(self, event: str) -> Iterator[Entry]:
        """Return the entries of one event."""
        return (entry for entry in self.entries if entry.get("event") == event)

    def done(self) -> Iterator[tuple[str, Entry]]:
        """Return the finished steps and their entries. Malformed entries are skipped."""
        for entry in self.of("done"):
            if isinstance(entry.get("step"), str) and isinstance(entry.get("result"), dict):
                yield entry["step"], entry

    def result(self, step: str) -> Entry | None:
        """Return the result of a finished step, or None."""
        return next((entry["result"] for name, entry in self.done() if name == step), None)

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

    def jobs(self) -> list[Entry]:
        """Return the jobs, the newest first, as ``{"step", "kind", "job", "folder", "at", "state"}``.

        `state`: done, under way, or replaced by a later job of the same step.
        """
        done = {step for step, _ in self.done()}
        newest: set[str] = set()
        rows: list[Entry] = []
        for entry in reversed([*self.of("job")]):
            step = str(entry.get("step", ""))
            state = "replaced" if step in newest else "done" if step in done else "under way"
            newest.add(step)
            rows.append({key: str(entry.get(key, "")) for key in ("step", "kind", "job", "folder", "at")})
            rows[-1]["state"] = state
        return rows

    def seconds(self) -> float:
        """Return the wall time of all finished steps of generations, overlapping times counted once."""
        spans = [span for step, entry in self.done() if step.startswith("gen_") and (span := _span(entry))]
        covered = covered_until = 0.0
        for start, end in sorted(spans):
            covered += max(0.0, end - max(start, covered_until))
            covered_until = max(covered_until, end)
        return covered

    def _clear(self) -> None:
        self.entries: list[Entry] = []
        self.fault, self._last_hash = "", "0" * 64

    def _add(self, line: bytes) -> None:
        number = len(self.entries) + 1
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError):
            entry = None
        if not isinstance(entry, dict):
            self.fault = self.fault or f"journal line {number} is no JSON object"
            return
        if entry.get("prev") != self._last_hash:
            self.fault = self.fault or f"journal line {number} does not follow from line {number - 1}"
        self._last_hash = hashlib.sha256(line).hexdigest()
        self.entries.append(entry)


def _span(entry: Entry) -> tuple[float, float] | None:
    try:
        end = datetime.fromisoformat(entry["at"]).timestamp()
        return end - float(entry["seconds"]), end
    except (KeyError, TypeError, ValueError):
        return None
