"""The tracker that records nothing: the run directory is the record."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any


class Nothing:
    """The tracker ``tracker=none``."""

    def update(self, run: Path, summary: Mapping[str, Any]) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""
