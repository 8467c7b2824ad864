"""The interface of trackers. Implementations: `local`, `wandb`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol


class Tracker(Protocol):
    """The destination of a run's figures."""

    def update(self, run: Path, summary: Mapping[str, Any]) -> None:
        """Record the whole summary, after each generation and at the end.

        Must be idempotent (resume). Waits for no service, and raises nothing because of one.
        """
        ...

    def close(self) -> None:
        """Finish after the last update of this process, whatever ended it. May wait briefly."""
        ...
