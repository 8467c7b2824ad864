"""Comparisons of SIA-W+H with SIA-H on the same test questions: a pair a seed, then over seeds and over questions."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from sia_runner.compare.scores import compare
from sia_runner.report.groups import Group, H, Side
from sia_runner.report.runs import Ran
from sia_runner.report.statistics import Mean, holm, mean, over_questions, verdict, verdict_of_intervals
from sia_runner.rundir import RunError


@dataclass(frozen=True, slots=True)
class Pair:
    """Two runs of the same seed.

    `difference`: new - old on test, in metric units. `lost`, `won`: numbers of questions. `p_value`: McNemar's exact
    test, two-sided. `p_holm`: adjusted for the pairs of the group. None if the metric is no mean over questions.
    """

    seed: int | None
    old: Ran
    new: Ran
    difference: float
    standard_error: float | None
    lost: int | None
    won: int | None
    p_value: float | None
    p_holm: float | None
    verdict: str


@dataclass(frozen=True, slots=True)
class Contrast:
    """An arm compared with SIA-H. `unpaired`: seeds for which only one of the two has a test score."""

    old: Side
    new: Side
    pairs: tuple[Pair, ...]
    over_seeds: Mean | None
    over_questions: Mean | None
    verdict: str
    notes: tuple[str, ...]
    unpaired: tuple[int | None, ...]


def contrasts(group: Group) -> list[Contrast]:
    """Compare each arm with a trainer with the SIA-H arm that differs in nothing else."""
    compared = [_contrast(old, new, group) for old, new in _sides(group)]
    adjusted = iter(holm([pair.p_value for contrast in compared for pair in contrast.pairs]))
    return [
        _with_pairs(contrast, [_with_verdict(pair, next(adjusted), contrast, group) for pair in contrast.pairs])
        for contrast in compared
    ]


def _with_pairs(contrast: Contrast, pairs: Sequence[Pair]) -> Contrast:
    """Attach the pairs. With one seed there is no interval over seeds, so its own verdict is the contrast's."""
    alone = f"{pairs[0].verdict}, one seed" if len(pairs) == 1 else contrast.verdict
    return replace(contrast, pairs=tuple(pairs), verdict=alone)


def _sides(group: Group) -> Iterator[tuple[Side, Side]]:
    for new in group.sides:
        old = next((side for side in group.sides if side.mode == H and side.variant == new.variant), None)
        if new.mode != H and old:
            yield old, new


def _with_verdict(pair: Pair, p_holm: float | None, contrast: Contrast, group: Group) -> Pair:
    gain = pair.difference if group.sample_run.higher_is_better else -pair.difference
    return replace(pair, p_holm=p_holm, verdict=verdict(gain, p_holm, contrast.new.label, contrast.old.label))


def _contrast(old: Side, new: Side, group: Group) -> Contrast:
    pairs: list[Pair] = []
    notes: list[str] = []
    before, after = _by_seed(old), _by_seed(new)
    for seed in sorted(before.keys() & after.keys(), key=str):
        try:
            comparison = compare([arm for run in (before[seed], after[seed]) if (arm := run.arm)])
        except RunError as error:
            notes.append(str(error))
            continue
        figures = {
            key: comparison["pairs"][0][key] for key in ("difference", "standard_error", "lost", "won", "p_value")
        }
        pairs.append(Pair(seed, before[seed], after[seed], **figures, p_holm=None, verdict=""))
        notes += comparison["notes"]
    seeds = mean([pair.difference for pair in pairs])
    questions = over_questions([_by_question(pair) for pair in pairs if pair.p_value is not None])
    sign = 1 if group.sample_run.higher_is_better else -1
    intervals = [average.ci95 for average in (seeds, questions) if average and average.ci95]
    conclusion = verdict_of_intervals(intervals, sign, new.label, old.label) if pairs else "no pair"
    unpaired = {run.seed for side in (old, new) for run in side.runs} - {pair.seed for pair in pairs}
    return Contrast(
        old, new, tuple(pairs), seeds, questions, conclusion, tuple(notes), tuple(sorted(unpaired, key=str))
    )


def _by_seed(side: Side) -> dict[int | None, Ran]:
    """Return seed -> the first run that can be compared."""
    return {run.seed: run for run in reversed(side.runs) if run.arm}


def _by_question(pair: Pair) -> dict[str, float]:
    if not (pair.old.arm and pair.new.arm):
        return {}
    before = {outcome.unit: outcome.value for outcome in pair.old.arm.outcomes}
    return {outcome.unit: outcome.value - before[outcome.unit] for outcome in pair.new.arm.outcomes}
