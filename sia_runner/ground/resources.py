"""Where the shipped configuration and tasks lie: inside the wheel, or beside the package in a checkout."""

import os
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parents[1]


def bundled(room: str) -> Path:
    """The folder ``conf`` or ``tasks`` that belongs to this installation."""
    in_wheel = _PACKAGE / "_bundled" / room
    return in_wheel if in_wheel.is_dir() else _PACKAGE.parent / room


def cache_dir() -> Path:
    """Prepared data and harness environments, shared by all runs (``SIA_CACHE`` or the XDG cache folder)."""
    named = os.environ.get("SIA_CACHE")
    if named:
        return Path(named).expanduser().resolve()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sia_runner"
