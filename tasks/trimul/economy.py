"""The value of counted work where no GPU can time it: the minimum that the case needs, divided by the work."""

from collections.abc import Mapping

from cases import Case

_BYTES_PER_SECOND, _NARROWER = 3.35e12, 4
_PER_BYTE = {  # operations
    name: per_second / _BYTES_PER_SECOND / _NARROWER
    for name, per_second in {"half": 989e12, "tf32": 495e12, "plain": 67e12}.items()
}


def cost(work: Mapping[str, int]) -> float:
    """Return the cost in bytes."""
    return work["moved"] + sum(work[name] / rate for name, rate in _PER_BYTE.items())


def share(case: Case, work: Mapping[str, int]) -> float:
    """Return the share, from 0 to 1. It is 0 for counts below the traffic of the input and the output."""
    rows = case.batch * case.n**2
    compulsory = 2 * 4 * rows * case.dim
    if work["moved"] < compulsory:
        return 0.0
    products = 2 * rows * 6 * case.dim * case.hidden + 2 * rows * case.n * case.hidden
    return min(1.0, (compulsory + products / _PER_BYTE["half"]) / cost(work))
