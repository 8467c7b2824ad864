"""The candidate of slots.py."""

import time
from collections.abc import Callable
from typing import Any


def candidate(seconds: float) -> tuple[float, float]:
    """Return when the evaluation began and ended, in seconds since the epoch."""
    began = time.time()
    time.sleep(seconds)
    return began, time.time()


def carry_out(stage: Callable[..., Any], *args: Any) -> Any:
    """Run a stage in a worker, where nothing has to be prepared."""
    return stage(*args)
