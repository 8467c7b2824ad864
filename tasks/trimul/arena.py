"""Memory that the judge and the program in the sandbox share: one block with all inputs and the output.

On a CPU it is a file of the working folder; the judge reads and writes it through a descriptor of its own, so that
whatever is done to the name, or to its size, ends as a wrong answer. On a GPU see `cuda_arena`.
"""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

NAME = "arena"
_ALIGNED = 512  # bytes, as allocators on GPUs do
_SIZES = {"float32": 4, "int64": 8}

# name -> [dtype, shape, offset in bytes]
Layout = dict[str, list[Any]]


def layout(fields: dict[str, tuple[str, tuple[int, ...]]]) -> tuple[Layout, int]:
    """Return the place of each field, and the bytes of all."""
    placed: Layout = {}
    at = 0
    for name, (dtype, shape) in fields.items():
        placed[name] = [dtype, list(shape), at]
        at += -(-_SIZES[dtype] * math.prod(shape) // _ALIGNED) * _ALIGNED
    return placed, at


def fields(block: torch.Tensor, placed: Layout) -> dict[str, torch.Tensor]:
    """Return the tensors that lie in the uint8 `block`."""
    import torch

    tensors = {}
    for name, (dtype, shape, at) in placed.items():
        item = getattr(torch, dtype)
        tensors[name] = block[at : at + _SIZES[dtype] * math.prod(shape)].view(item).view(shape)
    return tensors


class FileArena:
    """The judge's side of a file that both processes map."""

    def __init__(self, work: Path, size: int) -> None:
        path = work / NAME
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        os.ftruncate(self._fd, size)
        owner = work.stat()  # a sandbox of root gives its folder to another user
        if owner.st_uid != os.geteuid():
            os.fchown(self._fd, owner.st_uid, owner.st_gid)

    def offer(self, seconds: float) -> None:
        """Do nothing: the file exists."""

    def put(self, placed: Layout, tensors: dict[str, torch.Tensor]) -> None:
        """Write tensors to their places."""
        for name, tensor in tensors.items():
            data, at = memoryview(tensor.contiguous().numpy()).cast("B"), placed[name][2]
            while data:
                written = os.pwrite(self._fd, data, at)
                data, at = data[written:], at + written

    def look(self) -> None:
        """Do nothing: `take` reads the file at once, whoever writes it."""

    def take(self, placed: Layout) -> torch.Tensor | None:
        """Return a private copy of the output; None where the block was cut short."""
        import torch

        _, shape, at = placed["output"]
        remaining, parts = 4 * math.prod(shape), []
        while remaining and (part := os.pread(self._fd, min(remaining, 64 << 20), at)):
            parts.append(part)
            remaining, at = remaining - len(part), at + len(part)
        return None if remaining else torch.frombuffer(bytearray(b"".join(parts)), dtype=torch.float32).view(shape)

    def close(self) -> None:
        """Close the descriptor."""
        os.close(self._fd)


def block(work: Path) -> torch.Tensor:
    """Map the block on the program's side."""
    import numpy as np
    import torch

    return torch.from_numpy(np.memmap(work / NAME, dtype=np.uint8, mode="r+"))
