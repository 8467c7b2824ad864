"""What the loop needs of a tracker. Implementations: `local` and `nothing`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol


class Tracker(Protocol):
    def update(self, run: Path, summary: Mapping[str, Any]) -> None:
        """Called with the whole summary after each generation and at the end; must be idempotent (resume)."""
        ...
