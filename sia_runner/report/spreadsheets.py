"""The figures as CSV, unrounded: runs, generations, pairs. Text that looks like a formula is quoted."""

import csv
import io
from collections.abc import Iterable, Sequence
from typing import Any

from sia_runner.ground.plaintext import one_line
from sia_runner.report.runs import Ran
from sia_runner.report.sections import Section

Json = dict[str, Any]
_SCORE = ("value", "low", "high", "n")


def runs(of: Sequence[Ran]) -> str:
    """Return a row for each run, whatever became of it."""
    return _csv(_run(run) for run in of)


def generations(of: Sequence[Ran]) -> str:
    """Return a row for each generation."""
    return _csv(_generation(run, g.n) for run in of for g in run.generations)


def pairs(of: Sequence[Section]) -> str:
    """Return a row for each pair: arms of the same seed, and each run's best candidate with its first harness."""
    return _csv([*_arm_pairs(of), *_gain_rows(of)])


def _run(run: Ran) -> Json:
    usage = run.usage or {}
    val = next((g.val for g in run.generations if g.n == run.best), None)
    return {
        **_names(run),
        "status": run.status,
        "why": run.why,
        "metric": run.metric,
        "generations": len(run.generations),
        "best": run.best,
        **_score("val", val),
        **_score("initial_test", run.initial),
        **_score("test", run.final),
        "looks_at_test": run.looks,
        "test_sha256": run.arm.test_sha256 if run.arm else None,
        **{key: usage.get(key) for key in ("usd", "tokens", "calls")},
        "seconds": run.seconds,
        "not_compared": run.not_compared,
        "faults": "; ".join(run.faults),
    }


def _generation(run: Ran, n: int) -> Json:
    g = next(candidate for candidate in run.generations if candidate.n == n)
    usage = run.usage_by_generation.get(n, {})
    return {
        **_names(run),
        "generation": n,
        **{key: getattr(g, key) for key in ("lever", "algorithm", "status", "parent", "title", "reason")},
        **_score("val", g.val),
        "outcomes": " ".join(f"{kind}={count}" for kind, count in g.outcomes.items()),
        "seconds": round(sum(g.seconds.values()), 3),
        **{key: usage.get(key) for key in ("usd", "tokens", "calls")},
    }


def _arm_pairs(of: Sequence[Section]) -> Iterable[Json]:
    for section in of:
        for contrast in section.contrasts:
            for pair in contrast.pairs:
                keys = ("difference", "standard_error", "lost", "won", "p_value", "p_holm", "verdict")
                named = {"kind": "arms", "task": section.group.task, "seed": pair.seed}
                yield named | {"old": pair.old.name, "new": pair.new.name} | {key: getattr(pair, key) for key in keys}


def _gain_rows(of: Sequence[Section]) -> Iterable[Json]:
    for section in of:
        for gain in section.gains:
            run = gain.run
            if run.initial and run.final:
                named = {"kind": "first harness to best", "task": run.task, "seed": run.seed}
                difference = run.final["value"] - run.initial["value"]
                columns = {
                    "old": f"{run.name} gen_{run.first}",
                    "new": f"{run.name} gen_{run.best}",
                    "difference": difference,
                }
                columns |= {key: getattr(gain, key) for key in ("lost", "won", "p_value", "verdict")}
                yield named | columns | {"standard_error": None, "p_holm": None}


def _names(run: Ran) -> Json:
    return {"run": run.name, "task": run.task, "mode": run.mode, "trainer": run.trainer, "seed": run.seed}


def _score(name: str, score: Any) -> Json:
    low, high = (score or {}).get("ci95") or (None, None)
    values = ((score or {}).get("value"), low, high, (score or {}).get("n"))
    return {name if part == "value" else f"{name}_{part}": value for part, value in zip(_SCORE, values, strict=True)}


def _csv(rows: Iterable[Json]) -> str:
    table = list(rows)
    text = io.StringIO()
    if table:
        lines = csv.DictWriter(text, table[0].keys(), lineterminator="\n")
        lines.writeheader()
        lines.writerows({key: _safe(value) for key, value in row.items()} for row in table)
    return text.getvalue()


def _safe(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    line = one_line(value, 1000)
    return f"'{line}" if line.startswith(("=", "+", "-", "@")) else line
