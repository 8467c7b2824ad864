"""Checkpoints of a training in progress: one file each, complete or absent."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any


class Checkpoints:
    """The checkpoints of one training in a folder; those with another `key` are never resumed.

    A checkpoint holds the adapter, the optimizer, the learning-rate schedule and the curves after a step. Random states
    are not needed: each step draws from (seed, step).
    """

    def __init__(self, folder: Path, key: str) -> None:
        self._folder = folder
        self._key = key

    def save(self, step: int, content: Mapping[str, Any]) -> None:
        """Write the state after `step` steps; a kill at any moment leaves it complete or absent."""
        import torch

        self._folder.mkdir(parents=True, exist_ok=True)
        partial = self._folder / f".step-{step:06d}.{os.getpid()}"
        with partial.open("wb") as file:
            torch.save({"key": self._key, "step": step, "content": dict(content)}, file)
            file.flush()
            os.fsync(file.fileno())
        partial.rename(self._path(step))

    def latest(self) -> tuple[int, dict[str, Any]] | None:
        """Return the newest state of this training, (steps done, content), or None."""
        return self.before(None)

    def before(self, step: int | None) -> tuple[int, dict[str, Any]] | None:
        """Return the newest state after at most `step` steps, or None."""
        import torch

        for number in reversed(self.steps()):
            if step is None or number <= step:
                saved = torch.load(self._path(number), map_location="cpu", weights_only=True)
                if saved["key"] == self._key:
                    return number, saved["content"]
        return None

    def prune(self, step: int) -> None:
        """Delete checkpoints older than the newest one of at most `step` steps."""
        old = [number for number in self.steps() if number <= step]
        for number in old[:-1]:
            self._path(number).unlink(missing_ok=True)

    def steps(self) -> list[int]:
        """Return the steps that have a checkpoint, in order."""
        return sorted(int(path.stem.removeprefix("step-")) for path in self._folder.glob("step-*.pt"))

    def _path(self, step: int) -> Path:
        return self._folder / f"step-{step:06d}.pt"
