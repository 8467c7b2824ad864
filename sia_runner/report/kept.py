"""What the files of a run keep beside its journal: costs, answers on test by question, and where they do not agree."""

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
    """Empty where scores.json is not the one that the verifier wrote."""
    found = piece(run, f"test/gen_{n}/scores.json", 0, MOST)
    result = journal.result(f"test/gen_{n}") or {}
    if found is None or hashlib.sha256(found.data).hexdigest() != result.get("scores_sha256"):
        return ()
    rows = json.loads(found.data)["outcomes"]
    return tuple(Outcome(row["unit"], OutcomeKind(row["kind"]), row["value"]) for row in rows)


def usages(summary: Json) -> dict[int, Json]:
    rows = [row for row in summary.get("generations") or [] if isinstance(row, dict)]
    return {
        row["n"]: row["usage"] for row in rows if isinstance(row.get("usage"), dict) and isinstance(row.get("n"), int)
    }


def faults(journal: Journal, summary: Json, best: int | None, tested: Mapping[int, Json]) -> list[str]:
    """Figures are the journal's; a summary of a finished run that says something else was edited."""
    said = [journal.fault] if journal.fault else []
    claimed = as_dict(summary.get("best"))
    if not claimed:
        return said
    theirs = (claimed.get("generation"), score(claimed.get("test")))
    ours = (best, tested[best]["score"] if best is not None and best in tested else None)
    if theirs != ours:
        said.append("summary.json and journal.jsonl disagree on the best generation or its test score")
    return said


def as_dict(value: Any) -> Json:
    return value if isinstance(value, dict) else {}


def as_text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def as_number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else 0.0
