"""The candidate of slots.py."""

import time


def candidate(seconds: float) -> tuple[float, float]:
    """Return when the evaluation began and ended, in seconds since the epoch."""
    began = time.time()
    time.sleep(seconds)
    return began, time.time()
