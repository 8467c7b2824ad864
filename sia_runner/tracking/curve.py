"""The curve of a weights update, read while the training writes it, perhaps on another node."""

import json
import math
from collections.abc import Iterator
from pathlib import Path

_MOST = 1 << 20  # bytes read at a time

Figures = dict[str, float]


class Curve:
    """`news()` gives the steps that were added since it was called last; see rundir.Generation.curve."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._read = 0
        self._newest = -1.0

    def news(self) -> Iterator[Figures]:
        while chunk := self._chunk():
            for line in chunk.splitlines():
                figures = _figures(line)
                if figures and figures["step"] > self._newest:
                    self._newest = figures["step"]
                    yield figures

    def _chunk(self) -> bytes:
        """Whole lines; of a line longer than what is read at a time, parts, none of which is a step. Empty: no news."""
        try:
            with self._file.open("rb") as stream:
                stream.seek(self._read)
                chunk = stream.read(_MOST)
        except FileNotFoundError:
            return b""
        whole = chunk[: chunk.rfind(b"\n") + 1] or (chunk if len(chunk) == _MOST else b"")
        self._read += len(whole)
        return whole


def _figures(line: bytes) -> Figures:
    """The finite numbers of a line; none where it was cut."""
    try:
        read = json.loads(line)
        numbers: Figures = {key: n for key, n in read.items() if isinstance(n, int | float) and math.isfinite(n)}
    except (ValueError, AttributeError, OverflowError):
        return {}
    return numbers if "step" in numbers else {}
