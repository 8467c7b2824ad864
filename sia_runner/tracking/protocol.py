"""What the loop needs of a tracker. Implementations: `local`, `nothing`, `wandb`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol


class Tracker(Protocol):
    def update(self, run: Path, summary: Mapping[str, Any]) -> None:
        """Called with the whole summary after each generation and at the end; must be idempotent (resume). Waits for
        no service, and raises nothing on account of one."""
        ...

    def close(self) -> None:
        """After the last update of this process, whatever ended it: what is under way may be waited for, briefly."""
        ...
