"""Stratified orderings choose a few items that represent all of them."""

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, TypeVar

T = TypeVar("T")


def stratified_order(items: Sequence[T], stratum: Callable[[T], Hashable]) -> list[T]:
    """Return all items, ordered so that every prefix represents all strata; the order within one is unchanged.

    A prefix holds each stratum about in proportion to the square root of its size (power allocation, Bankier 1988).
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
    """Return a function from a failure of `Task.failures` to its confusion, or its kind if that occurs only once."""
    counts = Counter(map(_confusion, failures))  # so free text, with its many answers, is sampled by kind
    return lambda failure: _confusion(failure) if counts[_confusion(failure)] > 1 else failure["kind"]


def _confusion(failure: Mapping[str, Any]) -> tuple[str, str, str]:
    return failure["kind"], failure["gold"], failure["prediction"]
