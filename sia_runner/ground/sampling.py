"""Choosing a few of many so that they stand for all of them."""

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, TypeVar

T = TypeVar("T")


def representative(items: Sequence[T], stratum: Callable[[T], Hashable]) -> list[T]:
    """All items, ordered so that any beginning of the list holds each stratum about in proportion to the square root of
    its size: the large ones first and more often, small ones early enough to be seen (power allocation, Bankier 1988).
    Within a stratum the order stays.
    """
    sizes = Counter(map(stratum, items))
    places: dict[Hashable, int] = defaultdict(int)
    ranked = []
    for number, item in enumerate(items):
        key = stratum(item)
        ranked.append(((places[key] + 0.5) / math.sqrt(sizes[key]), -sizes[key], number))
        places[key] += 1
    return [items[number] for *_, number in sorted(ranked)]


def by_confusion(failures: Sequence[Mapping[str, Any]]) -> Callable[[Mapping[str, Any]], Hashable]:
    """The stratum of a failure as `Task.failures` gives it: its confusion (gold, prediction) where that occurs more
    than once, else its outcome kind. So tasks with few answers are sampled by confusion, free text by kind."""
    seen = Counter(map(_confusion, failures))
    return lambda failure: _confusion(failure) if seen[_confusion(failure)] > 1 else failure["kind"]


def _confusion(failure: Mapping[str, Any]) -> tuple[str, str, str]:
    return failure["kind"], failure["gold"], failure["prediction"]
