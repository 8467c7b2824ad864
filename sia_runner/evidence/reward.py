"""Computes statistics of the rewards of single questions, for the choice of lever and algorithm."""

from collections.abc import Sequence
from statistics import fmean, pvariance
from typing import Any


def statistics(values: Sequence[float]) -> dict[str, Any] | None:
    """Return statistics of `values`; None without values.

    These are n, mean, population variance, skewness (third standardised moment; 0 where all are equal), and the shares
    of exactly 0 and exactly 1.
    """
    if not values:
        return None
    mean = fmean(values)
    variance = pvariance(values, mean)
    third = fmean((value - mean) ** 3 for value in values)
    return {
        "n": len(values),
        "mean": mean,
        "variance": variance,
        "share_zero": sum(value == 0 for value in values) / len(values),
        "share_one": sum(value == 1 for value in values) / len(values),
        "skew": third / variance**1.5 if variance**1.5 > 0 else 0.0,
    }
