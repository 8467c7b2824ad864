"""What counted work is worth where no GPU can time it: the least that the case needs, divided by what was done.

A roofline with one number for each kind of arithmetic, in bytes: reading and writing, plus operations divided by what
a GPU can do while it moves one byte. The balance is an H100's (SXM data sheet: 3.35 TB/s; dense 989 TFLOPS in 16 bit,
495 in TF32, 67 outside the tensor cores), divided by 4: the small cases are about as much narrower than the real ones.
It sees passes over memory, number formats and redundant arithmetic. It sees no layouts, no cache misses within a
launch, no occupancy, no launch overhead, and it believes that a block of any size fits on the chip.
"""

from collections.abc import Mapping

from cases import Case

_BYTES_PER_SECOND, _NARROWER = 3.35e12, 4
_PER_BYTE = {  # operations
    name: per_second / _BYTES_PER_SECOND / _NARROWER
    for name, per_second in {"half": 989e12, "tf32": 495e12, "plain": 67e12}.items()
}


def cost(work: Mapping[str, int]) -> float:
    """In bytes."""
    return work["moved"] + sum(work[name] / rate for name, rate in _PER_BYTE.items())


def share(case: Case, work: Mapping[str, int]) -> float:
    """From 0 to 1. 0 for counts that cannot be: less traffic than the input and the output have."""
    rows = case.batch * case.n**2
    compulsory = 2 * 4 * rows * case.dim
    if work["moved"] < compulsory:
        return 0.0
    products = 2 * rows * 6 * case.dim * case.hidden + 2 * rows * case.n * case.hidden
    return min(1.0, (compulsory + products / _PER_BYTE["half"]) / cost(work))
