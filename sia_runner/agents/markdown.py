"""Formats values with their standard errors."""

import math


def standard_error(value: float, n: int) -> float:
    """Return the standard error of a mean of `n` values in [0, 1] (binomial bound); 0 on another scale."""
    return math.sqrt(value * (1 - value) / n) if n > 0 and 0 <= value <= 1 else 0.0


def plus_minus(value: float, n: int) -> str:
    """Format a value with its standard error."""
    error = standard_error(value, n)
    return f"{value:.3f} ± {error:.3f}" if error else f"{value:.4g}"
