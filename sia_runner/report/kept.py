"""Readers of a run's files beside its journal: costs, answers on test by question, and contradictions between them."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sia_runner.reading.files import piece
from sia_runner.reading.generations import score
from sia_runner.reading.journal import Journal
from sia_runner.records import Outcome, OutcomeKind

Json = dict[str, Any]
MOST = 64 << 20  # bytes of summary.json and scores.json


def answers_of(run: Path, journal: Journal, n: int) -> tuple[Outcome, ...]:
    """Return the outcomes on test, or none if scores.json is not the one that the verifier wrote."""
    chunk = piece(run, f"test/gen_{n}/scores.json", 0, MOST)
    result = journal.result(f"test/gen_{n}") or {}
    if chunk is None or hashlib.sha256(chunk.data).hexdigest() != result.get("scores_sha256"):
        return ()
    rows = json.loads(chunk.data)["outcomes"]
    return tuple(Outcome(row["unit"], OutcomeKind(row["kind"]), row["value"]) for row in rows)


def usages(summary: Json) -> dict[int, Json]:
    """Return generation -> usage of the summary."""
    rows = [row for row in summary.get("generations") or [] if isinstance(row, dict)]
    return {
        row["n"]: row["usage"] for row in rows if isinstance(row.get("usage"), dict) and isinstance(row.get("n"), int)
    }


def faults(journal: Journal, summary: Json, best: int | None, tested: Mapping[int, Json]) -> list[str]:
    """Return the contradictions. Figures come from the journal: a finished run's summary that differs was edited."""
    problems = [journal.fault] if journal.fault else []
    claimed = as_dict(summary.get("best"))
    if not claimed:
        return problems
    summary_best = (claimed.get("generation"), score(claimed.get("test")))
    journal_best = (best, tested[best]["score"] if best is not None and best in tested else None)
    if summary_best != journal_best:
        problems.append("summary.json and journal.jsonl disagree on the best generation or its test score")
    return problems


def as_dict(value: Any) -> Json:
    """Return `value` if it is a dict, else an empty one."""
    return value if isinstance(value, dict) else {}


def as_text(value: Any) -> str:
    """Return `value` if it is a string, else ""."""
    return value if isinstance(value, str) else ""


def as_number(value: Any) -> float:
    """Return `value` as a float if it is a number, else 0."""
    return float(value) if isinstance(value, int | float) else 0.0
