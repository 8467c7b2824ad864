"""Stratified orderings choose a few items that represent all of them."""

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, TypeVar

T = TypeVar("T")


def stratified_order(items: Sequence[T], stratum: Callable[[T], Hashable]) -> list[T]:
    """Return all items, ordered so that every prefix represents all strata.

    A prefix holds each stratum about in proportion to the square root of its size: large ones first and more often,
    small ones early enough to appear (power allocation, Bankier 1988). The order within a stratum is unchanged.
    """
    sizes = Counter(map(stratum, items))
    positions: dict[Hashable, int] = defaultdict(int)
    ranked: list[tuple[float, int, int]] = []
    for number, item in enumerate(items):
        key = stratum(item)
        ranked.append(((positions[key] + 0.5) / math.sqrt(sizes[key]), -sizes[key], number))
        positions[key] += 1
    return [items[number] for *_, number in sorted(ranked)]


def confusion_strata(failures: Sequence[Mapping[str, Any]]) -> Callable[[Mapping[str, Any]], Hashable]:
    """Return a function that gives the stratum of a failure of `Task.failures`.

    The stratum is the confusion (gold, prediction) if that occurs more than once, else the outcome kind. So tasks with
    few answers are sampled by confusion, free text by kind.
    """
    counts = Counter(map(_confusion, failures))
    return lambda failure: _confusion(failure) if counts[_confusion(failure)] > 1 else failure["kind"]


def _confusion(failure: Mapping[str, Any]) -> tuple[str, str, str]:
    return failure["kind"], failure["gold"], failure["prediction"]
