"""Reads the figures of levers.py from its run directories, or from answers.jsonl, and makes their table."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import NormalDist, fmean, stdev
from typing import Any

from _levers_arms import ALGORITHMS, ARMS, CONTROLS, HARNESS

from sia_runner.records import Outcome, OutcomeKind
from sia_runner.selection.scoring import paired_difference
from sia_runner.store.run_directory import RunDir, read_json

INITIAL = "Initial"
Right = Mapping[str, float]  # question -> 1 where it was answered right


@dataclass(frozen=True, slots=True)
class Tested:
    """One arm of one seed, on test. `accepted`: whether the update passed the gate; None where none was tried."""

    right: Right
    accepted: bool | None
    cpu_seconds: float


Results = dict[str, dict[int, Tested]]  # arm -> seed -> what was measured


@dataclass(slots=True)
class Row:
    """One arm over its seeds. `gain`: points over SIA-H of the same seeds. Intervals over questions, seeds averaged."""

    arm: str
    test: list[float]
    mean: float
    ci95: list[float]
    won: int = 0
    lost: int = 0
    p: float | None = None
    p_by_seed: list[float] = field(default_factory=list)
    gain: float | None = None
    gain_ci95: list[float] = field(default_factory=list)
    accepted: list[bool] = field(default_factory=list)
    cpu_seconds: float = 0.0

    @property
    def word(self) -> str:
        if self.p is None:
            return ""
        if self.p >= 0.05:
            return "tie"
        return "better" if self.won > self.lost else "worse"


def read(folder: Path, seeds: Sequence[int]) -> Results:
    """Return what was measured; what is not finished is not there."""
    results: Results = {INITIAL: {}, **{arm: {} for arm in ARMS}}
    for seed in seeds:
        for arm in ARMS:
            run = RunDir(folder / f"seed_{seed}" / arm)
            if (run.path / "cost.json").is_file():
                results[arm][seed] = _tested(run)
                if arm == HARNESS:
                    results[INITIAL][seed] = Tested(_right(run, 1), None, 0.0)
    return results


def _tested(run: RunDir) -> Tested:
    summary = read_json(run.path / "summary.json")
    updates = [
        generation["status"] == "accepted"
        for generation in summary["generations"]
        if generation["lever"] in ("weights", "both")
    ]
    cost = read_json(run.path / "cost.json")["cpu_seconds"]
    return Tested(_right(run, summary["best"]["generation"]), updates[-1] if updates else None, cost)


def _right(run: RunDir, n: int) -> Right:
    outcomes = read_json(run.path / "test" / f"gen_{n}" / "scores.json")["outcomes"]
    return {outcome["unit"]: outcome["value"] for outcome in outcomes}


def to_lines(results: Results, origin: Mapping[str, Any]) -> str:
    """Return answers.jsonl: where the answers are from and their questions, then a line for each arm and seed."""
    questions = sorted(next(iter(results[HARNESS].values())).right) if results[HARNESS] else []
    lines: list[dict[str, Any]] = [{**origin, "questions": questions}]
    for arm, by_seed in results.items():
        for seed, tested in by_seed.items():
            values = " ".join(f"{tested.right[question]:.12g}" for question in questions)
            rest = {"accepted": tested.accepted, "cpu_seconds": tested.cpu_seconds, "values": values}
            lines.append({"arm": arm, "seed": seed, **rest})
    return "".join(json.dumps(line) + "\n" for line in lines)


def from_lines(text: str) -> tuple[dict[str, Any], Results]:
    """Return what `to_lines` was given."""
    origin, *lines = [json.loads(line) for line in text.splitlines()]
    questions = origin.pop("questions")
    results: Results = {INITIAL: {}, **{arm: {} for arm in ARMS}}
    for line in lines:
        right = dict(zip(questions, map(float, line["values"].split()), strict=True))
        results[line["arm"]][line["seed"]] = Tested(right, line["accepted"], line["cpu_seconds"])
    return origin, results


def rows(results: Mapping[str, Mapping[int, Tested]]) -> list[Row]:
    return [_row(arm, by_seed, results[HARNESS]) for arm, by_seed in results.items() if by_seed]


def _row(arm: str, by_seed: Mapping[int, Tested], base: Mapping[int, Tested]) -> Row:
    mean, ci95 = _interval(_averaged([result.right for result in by_seed.values()]))
    row = Row(arm, [fmean(result.right.values()) for result in by_seed.values()], mean, ci95)
    row.accepted = [result.accepted for result in by_seed.values() if result.accepted is not None]
    row.cpu_seconds = fmean(result.cpu_seconds for result in by_seed.values())
    both = [seed for seed in by_seed if seed in base]
    if arm == HARNESS or not both:
        return row
    pairs = [(_outcomes(by_seed[seed].right, seed), _outcomes(base[seed].right, seed)) for seed in both]
    single = [paired_difference(new, old, higher_is_better=True) for new, old in pairs]
    pooled = paired_difference([o for new, _ in pairs for o in new], [o for _, old in pairs for o in old], True)
    row.won, row.lost, row.p, row.p_by_seed = (
        pooled.won,
        pooled.lost,
        pooled.p_value,
        [result.p_value for result in single],
    )
    gains = [{unit: by_seed[seed].right[unit] - base[seed].right[unit] for unit in base[seed].right} for seed in both]
    gain, (low, high) = _interval(_averaged(gains))
    row.gain, row.gain_ci95 = 100 * gain, [100 * low, 100 * high]
    return row


def _outcomes(right: Right, seed: int) -> list[Outcome]:
    return [
        Outcome(f"{seed} {unit}", OutcomeKind.PARTIAL if value else OutcomeKind.WRONG, value)
        for unit, value in right.items()
    ]


def _averaged(by_seed: Sequence[Mapping[str, float]]) -> list[float]:
    """One value a question: seeds share their questions, and are no new ones."""
    return [fmean(scores[unit] for scores in by_seed) for unit in by_seed[0]]


def _interval(values: Sequence[float]) -> tuple[float, list[float]]:
    mean, half = fmean(values), NormalDist().inv_cdf(0.975) * stdev(values) / math.sqrt(len(values))
    return mean, [mean - half, mean + half]


HEADER = (
    "arm",
    "test, mean of seeds (95%)",
    "by seed",
    "points over SIA-H (95%)",
    "won : lost",
    "McNemar p, pooled",
    "p by seed",
    "",
    "accepted",
    "CPU s",
)


def cells(row: Row) -> tuple[str, ...]:
    name = f"{row.arm} (gold labels)" if row.arm in CONTROLS else row.arm
    gain = "" if row.gain is None else f"{row.gain:+.1f} ({row.gain_ci95[0]:+.1f} to {row.gain_ci95[1]:+.1f})"
    return (
        f"SIA-W+H {name}" if row.arm in ALGORITHMS else name,
        f"{row.mean:.3f} ({row.ci95[0]:.3f}–{row.ci95[1]:.3f})",
        " ".join(f"{value:.3f}" for value in row.test),
        gain,
        "" if row.p is None else f"{row.won} : {row.lost}",
        "" if row.p is None else f"{row.p:.2g}",
        " ".join(f"{p:.2g}" for p in row.p_by_seed),
        row.word,
        f"{sum(row.accepted)} of {len(row.accepted)}" if row.accepted else "",
        f"{row.cpu_seconds:.0f}" if row.cpu_seconds else "",
    )


def markdown(table: Sequence[Row]) -> str:
    lines = [HEADER, ("---",) * len(HEADER), *(cells(row) for row in table)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def to_json(table: Sequence[Row]) -> list[dict[str, Any]]:
    return [asdict(row) | {"verdict": row.word} for row in table]
