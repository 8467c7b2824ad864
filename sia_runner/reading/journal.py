"""The journal of a run, entry by entry as it grows."""

import hashlib
import json
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from sia_runner.reading.lines import Lines

Entry = dict[str, Any]


class Journal:
    """`entries` so far; `fault` names the first line that does not follow from the one before."""

    def __init__(self, run: Path) -> None:
        self._lines = Lines(run, "journal.jsonl")
        self._forget()

    def refresh(self) -> bool:
        """Read what is new. Was there anything?"""
        before = len(self.entries)
        again = False
        for line in self._lines.fresh():
            if self._lines.restarted and not again:
                self._forget()
                again, before = True, -1
            self._add(line.data)
        return len(self.entries) != before

    def of(self, event: str) -> Iterator[Entry]:
        return (entry for entry in self.entries if entry.get("event") == event)

    def done(self) -> Iterator[tuple[str, Entry]]:
        """Steps that were done, and their entries. What has another shape is passed over."""
        for entry in self.of("done"):
            if isinstance(entry.get("step"), str) and isinstance(entry.get("result"), dict):
                yield entry["step"], entry

    def result(self, step: str) -> Entry | None:
        return next((entry["result"] for name, entry in self.done() if name == step), None)

    def under_way(self) -> dict[str, str]:
        """Steps that were started in the newest process and are not done -> since when (ISO 8601)."""
        found: dict[str, str] = {}
        for entry in self.entries:
            step, event = str(entry.get("step", "")), entry.get("event")
            if event == "start":
                found[step] = str(entry.get("at", ""))
            elif event == "done":
                found.pop(step, None)
            elif event in ("resumed", "ended", "interrupted"):
                found.clear()
        return found

    def jobs(self) -> list[Entry]:
        """``{"step", "kind", "job", "folder", "at", "state"}``, the newest first; `state`: done, under way, or replaced
        by a later job of that step."""
        done = {step for step, _ in self.done()}
        newest: set[str] = set()
        found: list[Entry] = []
        for entry in reversed([*self.of("job")]):
            step = str(entry.get("step", ""))
            state = "replaced" if step in newest else "done" if step in done else "under way"
            newest.add(step)
            found.append({key: str(entry.get(key, "")) for key in ("step", "kind", "job", "folder", "at")})
            found[-1]["state"] = state
        return found

    def seconds(self) -> float:
        """Wall time of all finished steps of generations; what happened at the same time counts once."""
        spans = [span for step, entry in self.done() if step.startswith("gen_") and (span := _span(entry))]
        covered = until = 0.0
        for began, ended in sorted(spans):
            covered += max(0.0, ended - max(began, until))
            until = max(until, ended)
        return covered

    def _forget(self) -> None:
        self.entries: list[Entry] = []
        self.fault, self._last = "", "0" * 64

    def _add(self, line: bytes) -> None:
        number = len(self.entries) + 1
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError):
            entry = None
        if not isinstance(entry, dict):
            self.fault = self.fault or f"journal line {number} is no JSON object"
            return
        if entry.get("prev") != self._last:
            self.fault = self.fault or f"journal line {number} does not follow from line {number - 1}"
        self._last = hashlib.sha256(line).hexdigest()
        self.entries.append(entry)


def _span(entry: Entry) -> tuple[float, float] | None:
    try:
        ended = datetime.fromisoformat(entry["at"]).timestamp()
        return ended - float(entry["seconds"]), ended
    except (KeyError, TypeError, ValueError):
        return None
