"""A reader of the curve of a weights update while the training writes it, perhaps on another node."""

import json
import math
from collections.abc import Iterator
from pathlib import Path

_MOST = 1 << 20  # bytes read at a time

Figures = dict[str, float]


class Curve:
    """The curve of one generation; see rundir.Generation.curve."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._read = 0
        self._newest = -1.0

    def news(self) -> Iterator[Figures]:
        """Yield the steps that were added since the last call."""
        while chunk := self._chunk():
            for line in chunk.splitlines():
                figures = _figures(line)
                if figures and figures["step"] > self._newest:
                    self._newest = figures["step"]
                    yield figures

    def _chunk(self) -> bytes:
        """Return complete lines, or b"" if there is nothing new.

        A line that is longer than one read is returned in parts, none of which parses as a step.
        """
        try:
            with self._file.open("rb") as stream:
                stream.seek(self._read)
                chunk = stream.read(_MOST)
        except FileNotFoundError:
            return b""
        complete = chunk[: chunk.rfind(b"\n") + 1] or (chunk if len(chunk) == _MOST else b"")
        self._read += len(complete)
        return complete


def _figures(line: bytes) -> Figures:
    """Return the finite numbers of a line, or {} if the line was cut."""
    try:
        parsed = json.loads(line)
        numbers: Figures = {key: n for key, n in parsed.items() if isinstance(n, int | float) and math.isfinite(n)}
    except (ValueError, AttributeError, OverflowError):
        return {}
    return numbers if "step" in numbers else {}
