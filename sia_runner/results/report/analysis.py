"""The analysis of a report: comparable groups, SIA-W+H against SIA-H in pairs, and the gain of each run."""

import itertools
import math
import statistics
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sia_runner.records import Score
from sia_runner.results.compare import compare_runs
from sia_runner.results.report.runs import ReportedRun, is_question_mean, published_figures
from sia_runner.selection.scoring import paired_difference
from sia_runner.store.files import as_dict, as_int, as_number
from sia_runner.store.generations import CONTROL, SIA_H, SIA_WH
from sia_runner.store.run_directory import RunDirectoryError

_SIGNIFICANCE_LEVEL = 0.05
TIE, UNTESTED = "tie", "not tested"
DIRECTED = "directed by a person"  # part of the variant of an arm that was steered
UNFAIR = f"no fair comparison: {DIRECTED}"


@dataclass(frozen=True, slots=True)
class SeedMean:
    """A mean of one value per seed. `sd` and `ci95` (Student's t) need two seeds or more."""

    value: float
    n: int
    sd: float | None = None
    ci95: tuple[float, float] | None = None

    @staticmethod
    def of(values: Sequence[float]) -> "SeedMean | None":
        """Return the mean with its standard deviation and interval, or None without a value."""
        n = len(values)
        if n < 2:
            return SeedMean(values[0], 1) if n else None
        from scipy.special import stdtrit  # scipy.stats would load for half a second

        return _mean_with_interval(values, float(stdtrit(n - 1, 0.975)))

    @staticmethod
    def per_seed(values: Sequence[tuple[Hashable, float]]) -> "SeedMean | None":
        """Return the mean of ``(seed, value)`` pairs. Runs of the same seed count as one value, their mean."""
        seeds = dict.fromkeys(seed for seed, _ in values)
        return SeedMean.of([statistics.fmean(value for other, value in values if other == seed) for seed in seeds])


def _mean_with_interval(values: Sequence[float], quantile: float) -> SeedMean:
    middle, sd, n = statistics.fmean(values), statistics.stdev(values), len(values)
    half = quantile * sd / math.sqrt(n)
    return SeedMean(middle, n, sd, (middle - half, middle + half))


def holm_adjusted(p_values: Sequence[float | None]) -> list[float | None]:
    """Return the p-values adjusted for their number (Holm 1979). None stays None and does not count."""
    ordered = sorted((p, at) for at, p in enumerate(p_values) if p is not None)
    scaled = [min(1.0, (len(ordered) - rank) * p) for rank, (p, _) in enumerate(ordered)]
    adjusted = dict(zip((at for _, at in ordered), itertools.accumulate(scaled, max), strict=True))
    return [adjusted.get(at) for at in range(len(p_values))]


def mean_over_questions(differences: Sequence[Mapping[str, float]]) -> SeedMean | None:
    """Return the mean and normal 95% interval over questions of each seed's differences; None if questions differ."""
    units = differences[0].keys() if differences else ()
    if len(units) < 2 or any(by_unit.keys() != units for by_unit in differences):
        return None
    by_question = [statistics.fmean(by_unit[unit] for by_unit in differences) for unit in units]
    return _mean_with_interval(by_question, statistics.NormalDist().inv_cdf(0.975))


def pair_verdict(gain: float, p_value: float | None, new: str, old: str) -> str:
    """Return the verdict on one pair. `gain`: above 0 if the new one is better. Without p nothing is claimed."""
    if p_value is None:
        return UNTESTED
    if p_value >= _SIGNIFICANCE_LEVEL:
        return TIE
    return f"{new if gain > 0 else old} better"


def interval_verdict(intervals: Sequence[tuple[float, float]], sign: int, new: str, old: str) -> str:
    """Return "better" only if every interval excludes 0 on the same side."""
    ends = [sign * end for both in intervals for end in both]
    if min(ends) > 0:
        return f"{new} better"
    return f"{old} better" if max(ends) < 0 else TIE


# Settings that separate arms of the same mode, trainer and seed; other differences are noted beside each pair.
_ARM_SETTINGS = (
    *("meta_agent.name", "meta_agent.provider.model", "search.name", "search.proposer_models"),
    "target_agent.policy.base",
)


@dataclass(frozen=True, slots=True)
class ArmRuns:
    """One arm. `variant`: the values of _ARM_SETTINGS in which the arms of this group differ."""

    mode: str
    trainer: str
    variant: tuple[str, ...]
    runs: tuple[ReportedRun, ...]

    @property
    def label(self) -> str:
        """The name of the arm in tables and legends."""
        return " · ".join([self.mode, *self.details])

    @property
    def details(self) -> list[str]:
        """The trainer, where it says something, and the variant."""
        how = [self.trainer] if self.trained else [f"trainer={self.trainer}, never trained"] if self.untrained else []
        return [*how, *self.variant]

    @property
    def trained(self) -> bool:
        """True if an update of the weights was tried."""
        return self.mode == SIA_WH

    @property
    def control(self) -> bool:
        """True for a control arm: what an equal budget bought without improvement."""
        return self.mode.startswith(CONTROL)

    @property
    def untrained(self) -> bool:
        """True if a trainer was configured and no update was tried."""
        return not self.trained and self.trainer not in ("", "none")

    @property
    def directed(self) -> bool:
        """True if a person steered the runs: what they gained is not the search's alone."""
        return DIRECTED in self.variant

    @property
    def tested(self) -> list[ReportedRun]:
        """The runs with a test score."""
        return [run for run in self.runs if run.final]


@dataclass(frozen=True, slots=True)
class ComparableGroup:
    """Runs that can be compared."""

    task: str
    target: str  # policy, model or script (a harness that calls no model); "" if no run says so
    test_sha256: str | None  # of questions and data; None if no run was tested
    sides: tuple[ArmRuns, ...]  # SIA-H, SIA-W+H, control arms, then arms that a person directed

    @property
    def runs(self) -> list[ReportedRun]:
        """The runs of all arms."""
        return [run for side in self.sides for run in side.runs]

    @property
    def sample_run(self) -> ReportedRun:
        """A run that knows the metric, if there is one."""
        return next((run for run in self.runs if run.metric), self.runs[0])

    @property
    def label(self) -> str:
        """The name of the group in tables."""
        return f"{self.task} (no model)" if self.target == "script" else self.task

    @property
    def published(self) -> Mapping[str, Any]:
        """The published figures that the task declares (some of initial, prior, sia_h, sia_wh), source and protocol."""
        return next((figures for run in self.runs if (figures := published_figures(run.config))), {})


def group_runs(runs: Sequence[ReportedRun]) -> list[ComparableGroup]:
    """Return the groups in order. A run without a test score joins the first one of its task and arm, or task."""
    runs_by_key: dict[tuple[str, str, str | None], list[ReportedRun]] = {}  # by task, target, test_sha256
    for run in runs:
        if run.arm:
            runs_by_key.setdefault((run.task, run.arm.config["target_agent"], run.arm.test_sha256), []).append(run)
    for run in runs:
        if not run.arm:
            of_task = [key for key in runs_by_key if key[0] == run.task]
            of_arm = [key for key in of_task if any(_arm_key(other) == _arm_key(run) for other in runs_by_key[key])]
            closest = next(iter([*of_arm, *of_task]), (run.task, "", None))
            runs_by_key.setdefault(closest, []).append(run)
    return [ComparableGroup(*key, _arms_of(members)) for key, members in runs_by_key.items()]


def _arm_key(run: ReportedRun) -> tuple[str, str]:
    return (run.mode, run.trainer)


def _arms_of(runs: Sequence[ReportedRun]) -> tuple[ArmRuns, ...]:
    configured = [run for run in runs if run.config]
    varying: list[str] = []  # settings in which runs of the same mode, trainer and seed differ
    for key in dict.fromkeys([*_ARM_SETTINGS, *(key for run in runs for key in run.swept)]):
        values_by_arm: dict[tuple[str, str, int | None], set[str]] = {}
        for run in configured:
            values_by_arm.setdefault((*_arm_key(run), run.seed), set()).add(_setting_text(run, key))
        varying += [key] if any(len(values) > 1 for values in values_by_arm.values()) else []
    arms: dict[tuple[str, str, tuple[str, ...]], list[ReportedRun]] = {}
    for run in runs:
        texts = [(key, _setting_text(run, key)) for key in varying if run.config]
        apart: tuple[str, ...] = tuple(text if key in _ARM_SETTINGS else f"{key}={text}" for key, text in texts)
        apart += (DIRECTED,) if run.directions else ()
        arms.setdefault((*_arm_key(run), apart), []).append(run)
    ordered = sorted(arms.items(), key=lambda arm: _arm_order(*arm[0]))
    return tuple(ArmRuns(*arm, tuple(of)) for arm, of in ordered)


def _arm_order(mode: str, trainer: str, variant: tuple[str, ...]) -> tuple[bool, bool, bool]:
    return (DIRECTED in variant, mode.startswith(CONTROL), mode == SIA_WH)


def _setting_text(run: ReportedRun, key: str) -> str:
    setting: Any = run.config
    for part in key.split("."):
        setting = as_dict(setting).get(part)
    if isinstance(setting, dict):  # of a group: its choice
        setting = as_dict(setting).get("name")
    return "" if setting is None or setting == [] else str(setting)


@dataclass(slots=True)
class RunPair:
    """Two runs of the same seed. Figures by question are None if the metric is no mean over questions."""

    seed: int | None
    old: ReportedRun
    new: ReportedRun
    difference: float  # new - old on test, in metric units
    standard_error: float | None
    lost: int | None  # questions
    won: int | None
    p_value: float | None  # McNemar's exact test, two-sided
    p_holm: float | None = None  # adjusted for the pairs of the group (Holm 1979)
    verdict: str = ""


@dataclass(slots=True)
class ArmContrast:
    """An arm compared with another. `unpaired`: seeds for which only one of the two has a test score."""

    old: ArmRuns
    new: ArmRuns
    pairs: list[RunPair]
    over_seeds: SeedMean | None
    over_questions: SeedMean | None
    verdict: str
    notes: list[str]
    unpaired: tuple[int | None, ...]

    @property
    def is_weights_gain(self) -> bool:
        """True if it says what training the weights added to SIA-H."""
        return self.new.trained and self.old.mode == SIA_H and not self.old.untrained


def contrast_arms(group: ComparableGroup) -> list[ArmContrast]:
    """Compare each arm that trained with the SIA-H arm that differs in nothing else, and other arms with the first.

    Then each arm that improved is compared with each control arm.
    """
    plain = {side.variant: side for side in reversed(group.sides) if side.mode == SIA_H and not side.untrained}
    sign = 1 if group.sample_run.higher_is_better else -1
    arms = [side for side in group.sides if side.trained and side.variant in plain]
    compared = [_contrast_arms(plain[side.variant], side, sign) for side in arms]
    in_pairs = [side for contrast in compared for side in (contrast.old, contrast.new)]
    first, improved = group.sides[0], [side for side in group.sides if not side.control]
    others = [side for side in group.sides[1:] if side not in in_pairs and (first.control or not side.control)]
    compared += [_contrast_arms(first, side, sign) for side in others]
    controls = [side for side in group.sides if side.control and not first.control]
    compared += [_contrast_arms(control, side, sign) for side in improved for control in controls]
    adjusted = iter(holm_adjusted([pair.p_value for contrast in compared for pair in contrast.pairs]))
    for contrast in compared:
        for pair in contrast.pairs:
            pair.p_holm = next(adjusted)
            pair.verdict = pair_verdict(sign * pair.difference, pair.p_holm, contrast.new.label, contrast.old.label)
            if contrast.new.directed or contrast.old.directed:
                pair.verdict = UNFAIR
        if contrast.pairs and (contrast.new.directed or contrast.old.directed):
            contrast.verdict = UNFAIR
        elif len(contrast.pairs) == 1:  # there is no interval over seeds, so its own verdict is the contrast's
            contrast.verdict = f"{contrast.pairs[0].verdict}, one seed"
    return compared


def _contrast_arms(old: ArmRuns, new: ArmRuns, sign: int) -> ArmContrast:
    """Return the contrast without what depends on other pairs. The first run of a seed that can be compared counts."""
    before, after = ({run.seed: (run, run.arm) for run in reversed(side.runs) if run.arm} for side in (old, new))
    pairs: list[RunPair] = []
    notes: list[str] = []
    differences: list[dict[str, float]] = []  # of questions, where the metric is a mean over them
    for seed in sorted(before.keys() & after.keys(), key=str):
        (old_run, old_arm), (new_run, new_arm) = before[seed], after[seed]
        try:
            comparison = compare_runs([old_arm, new_arm])
        except RunDirectoryError as error:
            notes.append(str(error))
            continue
        notes += comparison["notes"]
        keys = ("difference", "standard_error", "lost", "won", "p_value")
        figures = {key: comparison["pairs"][0][key] for key in keys}
        pairs.append(RunPair(seed, old_run, new_run, **figures))
        if figures["p_value"] is not None:
            values = {outcome.unit: outcome.value for outcome in old_arm.outcomes}
            differences.append({outcome.unit: outcome.value - values[outcome.unit] for outcome in new_arm.outcomes})
    seeds, questions = SeedMean.of([pair.difference for pair in pairs]), mean_over_questions(differences)
    intervals = [average.ci95 for average in (seeds, questions) if average and average.ci95]
    verdict = interval_verdict(intervals, sign, new.label, old.label) if pairs else "no pair"
    unpaired = {run.seed for side in (old, new) for run in side.runs} - {pair.seed for pair in pairs}
    return ArmContrast(old, new, pairs, seeds, questions, verdict, notes, tuple(sorted(unpaired, key=str)))


_POINT = 0.01  # of the metric: a percentage point of accuracy


@dataclass(frozen=True, slots=True)
class GainCost:
    """A gain and its cost. `points`: gained on test, above 0 for better. `usd` None: some price is not known."""

    points: float
    usd: float | None
    tokens: int
    seconds: float

    def per_point(self, amount: float | None) -> float | None:
        """Return the share of `amount` for a point; None if no point was gained, or if the amount was saved."""
        return amount / self.points if amount is not None and amount >= 0 and self.points > 0 else None


@dataclass(frozen=True, slots=True)
class RunGain:
    """The gain of one run from its first harness to its best candidate."""

    run: ReportedRun
    difference: float  # on test, in metric units
    cost: GainCost
    lost: int | None
    won: int | None
    p_value: float | None
    verdict: str


def _total_cost(costs: Sequence[GainCost]) -> GainCost:
    prices = [cost.usd for cost in costs if cost.usd is not None]
    usd = sum(prices) if len(prices) == len(costs) else None
    points, tokens, seconds = (sum(getattr(cost, key) for cost in costs) for key in ("points", "tokens", "seconds"))
    return GainCost(points, usd, tokens, seconds)


def _extra_cost(pair: RunPair) -> GainCost:
    old, new = _cost(pair.old, 0.0), _cost(pair.new, pair.difference)
    usd = None if old.usd is None or new.usd is None else new.usd - old.usd
    return GainCost(new.points, usd, new.tokens - old.tokens, new.seconds - old.seconds)


def _cost(run: ReportedRun, difference: float) -> GainCost:
    usage, sign = run.usage or {}, 1 if run.higher_is_better else -1
    usd, tokens = as_number(usage.get("usd")), as_int(usage.get("tokens")) or 0
    return GainCost(sign * difference / _POINT, usd, tokens, run.seconds)


def _run_gain(run: ReportedRun, initial: Score, final: Score) -> RunGain:
    difference = final.value - initial.value
    cost = _cost(run, difference)
    directed = f", {DIRECTED}" if run.directions else ""
    if run.best == run.first:
        return RunGain(run, difference, cost, 0, 0, None, f"no change{directed}")
    old, new = run.answers.get(run.first or 0, ()), run.answers.get(run.best or 0, ())
    if not (is_question_mean(old, initial) and is_question_mean(new, final)):
        return RunGain(run, difference, cost, None, None, None, f"{UNTESTED}{directed}")
    pair = paired_difference(new, old, run.higher_is_better)
    verdict = TIE if pair.p_value >= _SIGNIFICANCE_LEVEL else "better" if cost.points > 0 else "worse"
    return RunGain(run, difference, cost, pair.lost, pair.won, pair.p_value, f"{verdict}{directed}")


@dataclass(frozen=True, slots=True)
class ReportSection:
    """The figures of one group."""

    group: ComparableGroup
    contrasts: list[ArmContrast]
    gains: list[RunGain]

    @property
    def costs(self) -> list[tuple[str, int, GainCost]]:
        """Name, number of runs, gain and cost of each arm, then what each arm scored above SIA-H and its extra cost."""
        result: list[tuple[str, int, GainCost]] = []
        for side in self.group.sides:
            if costs := [gain.cost for gain in self.gains if gain.run in side.runs]:
                result.append((side.label, len(costs), _total_cost(costs)))
        for contrast in self.contrasts:
            if not contrast.old.control and (costs := [_extra_cost(pair) for pair in contrast.pairs]):
                result.append((f"{contrast.new.label} above {contrast.old.label}", len(costs), _total_cost(costs)))
        return result

    @property
    def survival(self) -> list[str]:
        """A sentence on each arm that was compared with control arms: which equal budget its gain survives."""
        sentences: list[str] = []
        for side in self.group.sides:
            against = [c for c in self.contrasts if c.new is side and c.old.control and not side.control and c.pairs]
            if against:
                words = "; ".join(f"{c.old.label}: {c.verdict}" for c in against)
                beaten = [
                    c.old.label for c in against if c.verdict.removesuffix(", one seed") == f"{side.label} better"
                ]
                last = f"its gain survives {', '.join(beaten)}" if beaten else "its gain survives none of them"
                sentences.append(f"{side.label} against an equal budget without improvement ({words}): {last}.")
        return sentences

    @property
    def looks(self) -> int:
        """The number of uses of the test set in the runs of the group."""
        return sum(run.looks for run in self.group.runs)


def report_sections(runs: Sequence[ReportedRun]) -> list[ReportSection]:
    """Compute the section of each group. Gains are those of runs whose first harness and best candidate were tested."""
    result: list[ReportSection] = []
    for group in group_runs(runs):
        gains = [_run_gain(run, run.initial, run.final) for run in group.runs if run.initial and run.final]
        result.append(ReportSection(group, contrast_arms(group), gains))
    return result
