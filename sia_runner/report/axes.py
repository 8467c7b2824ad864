"""The parts that all charts of a group share: axis ranges, tick formats, the horizontal offset of an arm."""

from collections.abc import Callable, Sequence

from sia_runner.report.groups import Group
from sia_runner.report.paper import scale
from sia_runner.report.statistics import Mean

DODGE = 7  # pixels between the marks of two arms
EDGE = 0.02  # margin beyond the possible shares 0 and 1


def dodged(arm: int, group: Group) -> float:
    """Return the horizontal offset of an arm in pixels, so that arms of the same score do not hide one another."""
    return (arm - (len(group.sides) - 1) / 2) * DODGE


def shown(group: Group) -> Callable[[float], str]:
    """Return the function that formats the ticks of a score."""
    times, percent = scale(group.sample_run.metric)[0], scale(group.sample_run.metric)[0] == 100
    return lambda value: f"{times * value:.4g}{'%' if percent else ''}"


def possible(group: Group, span: tuple[float, float]) -> tuple[float, float]:
    """Cut an axis of shares at the possible shares; the edge leaves space for a mark."""
    if scale(group.sample_run.metric)[0] != 100:
        return span
    return max(span[0], -EDGE), min(span[1], 1 + EDGE)


def bounds(values: Sequence[float]) -> tuple[float, float]:
    """Return the range of an axis with a margin."""
    if not values:
        return (0.0, 1.0)
    low, high = min(values), max(values)
    margin = (high - low) * 0.08 or abs(high) * 0.05 or 0.05
    return (low - margin, high + margin)


def with_intervals(values: Sequence[float], means: Sequence[Mean | None]) -> tuple[float, float]:
    """Return the range of an axis that shows intervals too, unless they would squeeze the values together."""
    low, high = bounds(values)
    ends = [end for mean in means if mean and mean.ci95 for end in mean.ci95]
    extent = high - low
    headroom = 0.12 * extent if values else 0  # for the figures above the marks
    return max(min([low, *ends]), low - extent), min(max([high, *ends]), high + extent) + headroom
