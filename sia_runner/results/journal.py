"""A tolerant reader of a growing journal, and the generations and test scores that it records."""

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from sia_runner.selection.scoring import leaderboard_lines
from sia_runner.store.files import LineReader

Entry = dict[str, Any]


class JournalReader:
    """The entries read so far. `fault` names the first line that does not follow from the one before."""

    def __init__(self, run: Path) -> None:
        self._lines = LineReader(run, "journal.jsonl")
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
        spans = [span for step, entry in self.done() if step.startswith("gen_") and (span := _time_span(entry))]
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


def _time_span(entry: Entry) -> tuple[float, float] | None:
    try:
        end = datetime.fromisoformat(entry["at"]).timestamp()
        return end - float(entry["seconds"]), end
    except (KeyError, TypeError, ValueError):
        return None


STEPS = ("propose", "plan", "build", "gate", "run", "verify", "accept")
UNDER_WAY = "under way"
CUT = "cut"  # its process ended before the verdict
_CURVE_KEYS = ("reward", "kl", "entropy")


@dataclass(frozen=True, slots=True)
class GenerationRecord:
    """A generation. `status`: accepted, rejected, failed, unscored, under way, or cut (its process is gone).

    Scores are ``{"value", "ci95", "n"}``.
    """

    n: int
    status: str
    lever: str = ""
    algorithm: str | None = None
    title: str = ""
    rationale: str = ""
    reason: str = ""
    parent: int | None = None
    val: Mapping[str, Any] | None = None
    outcomes: Mapping[str, int] = field(default_factory=dict)  # of val
    difference: float | None = None  # to the incumbent at that time, with its standard error and p
    standard_error: float | None = None
    p_value: float | None = None
    training: Mapping[str, Any] | None = None  # asked, steps, reward, kl, entropy, stopped, tokens, seconds
    seconds: Mapping[str, float] = field(default_factory=dict)  # of each step that is done
    step: str = ""  # under way
    since: str = ""  # ISO 8601


def read_generations(journal: JournalReader, alive: bool) -> list[GenerationRecord]:
    """Return the generations in order. `alive`: a process still works on the run."""
    done: dict[int, dict[str, Entry]] = {}
    for step, entry in journal.done():
        if (position := _position(step)) is not None:
            done.setdefault(position[0], {})[position[1]] = entry
    started = {at: since for step, since in journal.under_way().items() if (at := _position(step)) is not None}
    for n, _ in started:
        done.setdefault(n, {})
    current: dict[int, dict[str, str]] = {}
    for (n, step), since in started.items():
        current.setdefault(n, {})[step] = since
    return [_generation_record(n, done[n], current.get(n, {}), alive) for n in sorted(done)]


def read_test_scores(journal: JournalReader) -> list[dict[str, Any]]:
    """Return each use of the test set: ``{"generation", "score", "outcomes", "standing", "at"}``."""
    rows = []
    for step, entry in journal.done():
        if step.startswith("test/"):
            result = entry["result"]
            row = {"generation": result.get("generation"), "outcomes": parse_counts(result.get("outcomes"))}
            row |= {"score": parse_score(result.get("score")), "standing": safe_standing_lines(result.get("standing"))}
            rows.append(row | {"at": str(entry.get("at", ""))})
    return rows


def safe_standing_lines(value: Any) -> list[str]:
    """Return lines on an official grader's score and medal; none if there are none, or if `value` is malformed."""
    try:
        return leaderboard_lines(value)
    except (AttributeError, KeyError, TypeError, ValueError):
        return []


def parse_score(value: Any) -> dict[str, Any] | None:
    """Return a score whose numbers are finite numbers, or None for anything else."""
    try:
        number, bounds = float(value["value"]), value["ci95"]
        if bounds is not None:
            low, high = bounds
            bounds = [float(low), float(high)]
        return (
            {"value": number, "ci95": bounds, "n": int(value["n"])}
            if all(map(math.isfinite, [number, *(bounds or [])]))
            else None
        )
    except (KeyError, TypeError, ValueError):
        return None


def _generation_record(n: int, done: Mapping[str, Entry], started: Mapping[str, str], alive: bool) -> GenerationRecord:
    results = {step: entry["result"] for step, entry in done.items()}
    proposal, verdict, verified = (results.get(step, {}) for step in ("propose", "accept", "verify"))
    current = ("", "") if verdict else next(iter(started.items()), ("", ""))
    return GenerationRecord(
        n=n,
        status=str(verdict.get("status") or (UNDER_WAY if alive else CUT)),
        lever=str(proposal.get("lever") or ""),
        algorithm=_text_or_none(proposal.get("algorithm")),
        title=str(proposal.get("title") or ""),
        rationale=str(proposal.get("rationale") or ""),
        reason=str(verdict.get("reason") or ""),
        parent=proposal.get("parent") if isinstance(proposal.get("parent"), int) else None,
        val=parse_score(verified.get("val")),
        outcomes=parse_counts(verified.get("outcomes")),
        difference=_finite_number(verdict.get("difference")),
        standard_error=_finite_number(verdict.get("standard_error")),
        p_value=_finite_number(verdict.get("p_value")),
        training=_training_figures(results.get("build", {})),
        seconds={step: _finite_number(done[step].get("seconds")) or 0.0 for step in STEPS if step in done},
        step=current[0],
        since=current[1],
    )


def _position(step: str) -> tuple[int, str] | None:
    """Split a step name: ``gen_3/run`` -> (3, "run"). Return None for other steps."""
    where, _, name = step.partition("/")
    number = where.removeprefix("gen_")
    return (int(number), name) if number != where and number.isdecimal() and len(number) < 7 else None


def parse_counts(value: Any) -> dict[str, int]:
    """Return outcome kind -> count, without entries that are no integers."""
    if not isinstance(value, dict):
        return {}
    return {str(kind): count for kind, count in value.items() if isinstance(count, int)}


def _training_figures(built: Entry) -> dict[str, Any] | None:
    if not isinstance(built.get("reward"), list):
        return None
    algorithm = built.get("algorithm")
    figures: dict[str, Any] = {"asked": algorithm.get("steps") if isinstance(algorithm, dict) else None}
    figures |= {key: built.get(key) for key in ("steps", "stopped", "tokens", "seconds")}
    return figures | {key: [_finite_number(value) for value in built.get(key) or []] for key in _CURVE_KEYS}


def _text_or_none(value: Any) -> str | None:
    return None if value is None else str(value)


def _finite_number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and abs(value) < float("inf") else None
