"""The liveness check for the process that writes a run directory. It writes nothing, unlike `ground.alive`."""

import time
from pathlib import Path
from typing import Any

from sia_runner.ground.alive import gone, identity
from sia_runner.reading.files import json_of, stamp

STALE_AFTER = 90.0  # seconds without a touch, for leases of other machines, whose clocks may differ a little


def holder(run: Path) -> dict[str, Any] | None:
    """Return the lease of the process that writes `run`, ``{"host", "pid", "job", …}``, or None if none is alive."""
    lease, touched = json_of(run, "lease.json", 1 << 16), stamp(run, "lease.json")
    if not isinstance(lease, dict) or touched is None:
        return None
    own = identity()
    try:
        if all(lease.get(key) == own[key] for key in ("host", "boot", "space")):
            return None if gone(lease, run / "lease.json", STALE_AFTER) else lease
    except (KeyError, TypeError, ValueError):
        return None
    return lease if time.time() - touched.mtime_ns / 1e9 < STALE_AFTER else None
