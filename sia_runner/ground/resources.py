"""The shipped configuration and tasks lie inside the wheel, or beside the package in a checkout."""

import os
from pathlib import Path

import sia_runner

_PACKAGE = Path(sia_runner.__file__).resolve().parent


def bundled(folder: str) -> Path:
    """Return the folder ``conf``, ``tasks``, ``sweeps`` or ``slurm`` of this installation."""
    in_wheel = _PACKAGE / "_bundled" / folder
    return in_wheel if in_wheel.is_dir() else _PACKAGE.parent / folder


def cache_dir() -> Path:
    """Return the folder of prepared data and environments, shared by all runs (``SIA_CACHE`` or the XDG cache)."""
    folder = os.environ.get("SIA_CACHE")
    if folder:
        return Path(folder).expanduser().resolve()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sia_runner"
