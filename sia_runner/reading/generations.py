"""The generations of a journal: those with a verdict and those under way."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sia_runner.ground.standing import standing_lines
from sia_runner.reading.journal import Entry, Journal

STEPS = ("propose", "plan", "build", "gate", "run", "verify", "accept")
UNDER_WAY = "under way"
CUT = "cut"  # its process ended before the verdict
_CURVES = ("reward", "kl", "entropy")


@dataclass(frozen=True, slots=True)
class Generation:
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


def generations(journal: Journal, alive: bool) -> list[Generation]:
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
    return [_generation(n, done[n], current.get(n, {}), alive) for n in sorted(done)]


def tests(journal: Journal) -> list[dict[str, Any]]:
    """Return each use of the test set: ``{"generation", "score", "outcomes", "standing", "at"}``."""
    rows = []
    for step, entry in journal.done():
        if step.startswith("test/"):
            result = entry["result"]
            row = {"generation": result.get("generation"), "outcomes": counts(result.get("outcomes"))}
            row |= {"score": score(result.get("score")), "standing": standing(result.get("standing"))}
            rows.append(row | {"at": str(entry.get("at", ""))})
    return rows


def standing(value: Any) -> list[str]:
    """Return lines on an official grader's score and medal; none if there are none, or if `value` is malformed."""
    try:
        return standing_lines(value)
    except (AttributeError, KeyError, TypeError, ValueError):
        return []


def score(value: Any) -> dict[str, Any] | None:
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


def _generation(n: int, done: Mapping[str, Entry], started: Mapping[str, str], alive: bool) -> Generation:
    results = {step: entry["result"] for step, entry in done.items()}
    proposal, verdict, verified = (results.get(step, {}) for step in ("propose", "accept", "verify"))
    current = ("", "") if verdict else next(iter(started.items()), ("", ""))
    return Generation(
        n=n,
        status=str(verdict.get("status") or (UNDER_WAY if alive else CUT)),
        lever=str(proposal.get("lever") or ""),
        algorithm=_name(proposal.get("algorithm")),
        title=str(proposal.get("title") or ""),
        rationale=str(proposal.get("rationale") or ""),
        reason=str(verdict.get("reason") or ""),
        parent=proposal.get("parent") if isinstance(proposal.get("parent"), int) else None,
        val=score(verified.get("val")),
        outcomes=counts(verified.get("outcomes")),
        difference=_number(verdict.get("difference")),
        standard_error=_number(verdict.get("standard_error")),
        p_value=_number(verdict.get("p_value")),
        training=_training(results.get("build", {})),
        seconds={step: _number(done[step].get("seconds")) or 0.0 for step in STEPS if step in done},
        step=current[0],
        since=current[1],
    )


def _position(step: str) -> tuple[int, str] | None:
    """Split a step name: ``gen_3/run`` -> (3, "run"). Return None for other steps."""
    where, _, name = step.partition("/")
    number = where.removeprefix("gen_")
    return (int(number), name) if number != where and number.isdecimal() and len(number) < 7 else None


def counts(value: Any) -> dict[str, int]:
    """Return outcome kind -> count, without entries that are no integers."""
    if not isinstance(value, dict):
        return {}
    return {str(kind): count for kind, count in value.items() if isinstance(count, int)}


def _training(built: Entry) -> dict[str, Any] | None:
    if not isinstance(built.get("reward"), list):
        return None
    algorithm = built.get("algorithm")
    figures: dict[str, Any] = {"asked": algorithm.get("steps") if isinstance(algorithm, dict) else None}
    figures |= {key: built.get(key) for key in ("steps", "stopped", "tokens", "seconds")}
    return figures | {key: [_number(value) for value in built.get(key) or []] for key in _CURVES}


def _name(value: Any) -> str | None:
    return None if value is None else str(value)


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and abs(value) < float("inf") else None
