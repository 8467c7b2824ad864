"""Statistics of what single questions earned: what a choice of lever and algorithm goes by."""

from collections.abc import Sequence
from statistics import fmean, pvariance
from typing import Any


def statistics(values: Sequence[float]) -> dict[str, Any] | None:
    """n, mean, population variance and skewness (third standardised moment; 0 where all are equal), share of questions
    that earned exactly 0 and exactly 1. None without values."""
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
