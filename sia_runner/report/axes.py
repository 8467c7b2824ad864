"""What the charts of a group have in common: how far an axis goes, how its ticks are written, where an arm stands."""

from collections.abc import Callable, Sequence

from sia_runner.report.groups import Group
from sia_runner.report.paper import scale
from sia_runner.report.statistics import Mean

DODGE = 7  # pixels between the marks of two arms
EDGE = 0.02  # behind the last possible share


def dodged(arm: int, group: Group) -> float:
    """So that arms of the same score do not hide one another."""
    return (arm - (len(group.sides) - 1) / 2) * DODGE


def shown(group: Group) -> Callable[[float], str]:
    """How the ticks of a score are written."""
    times, percent = scale(group.some.metric)[0], scale(group.some.metric)[0] == 100
    return lambda value: f"{times * value:.4g}{'%' if percent else ''}"


def possible(group: Group, span: tuple[float, float]) -> tuple[float, float]:
    """An axis of shares ends where shares do; the edge leaves room for a mark."""
    if scale(group.some.metric)[0] != 100:
        return span
    return max(span[0], -EDGE), min(span[1], 1 + EDGE)


def bounds(values: Sequence[float]) -> tuple[float, float]:
    """Of an axis, with some room."""
    if not values:
        return (0.0, 1.0)
    low, high = min(values), max(values)
    room = (high - low) * 0.08 or abs(high) * 0.05 or 0.05
    return (low - room, high + room)


def with_intervals(values: Sequence[float], means: Sequence[Mean | None]) -> tuple[float, float]:
    """Of an axis: intervals too, as far as they do not push the values together."""
    low, high = bounds(values)
    ends = [end for one in means if one and one.ci95 for end in one.ci95]
    apart = high - low
    room = 0.12 * apart if values else 0  # for the figures above the marks
    return max(min([low, *ends]), low - apart), min(max([high, *ends]), high + apart) + room
