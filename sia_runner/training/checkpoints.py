"""Checkpoints of a training in progress: one file each, whole or not there."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any


class Checkpoints:
    """The checkpoints in one folder, of one training: `key` says which, and those of another are never resumed.

    A checkpoint holds the adapter, the optimizer, the learning-rate schedule and the curves after a step. Random
    numbers need no place in it: each step draws from (seed, step), whatever was drawn before."""

    def __init__(self, folder: Path, key: str) -> None:
        self._folder = folder
        self._key = key

    def save(self, step: int, content: Mapping[str, Any]) -> None:
        """Keep the state after `step` steps. A kill at any moment leaves the earlier ones and this one or nothing."""
        import torch

        self._folder.mkdir(parents=True, exist_ok=True)
        partial = self._folder / f".step-{step:06d}.{os.getpid()}"
        with partial.open("wb") as file:
            torch.save({"key": self._key, "step": step, "content": dict(content)}, file)
            file.flush()
            os.fsync(file.fileno())
        partial.rename(self._path(step))

    def latest(self) -> tuple[int, dict[str, Any]] | None:
        """The newest state of this training: (steps done, content)."""
        return self.before(None)

    def before(self, step: int | None) -> tuple[int, dict[str, Any]] | None:
        """The newest state after at most `step` steps."""
        import torch

        for found in reversed(self.steps()):
            if step is None or found <= step:
                saved = torch.load(self._path(found), map_location="cpu", weights_only=True)
                if saved["key"] == self._key:
                    return found, saved["content"]
        return None

    def prune(self, step: int) -> None:
        """Forget those that nobody can go back to: all older than the newest one of at most `step` steps."""
        old = [found for found in self.steps() if found <= step]
        for found in old[:-1]:
            self._path(found).unlink(missing_ok=True)

    def steps(self) -> list[int]:
        """The steps of which there is a checkpoint, in order."""
        return sorted(int(path.stem.removeprefix("step-")) for path in self._folder.glob("step-*.pt"))

    def _path(self, step: int) -> Path:
        return self._folder / f"step-{step:06d}.pt"
