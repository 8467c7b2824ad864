"""Keep the output of a harness in constant memory: head, tail, and how much was left out in between."""

import os

# control characters could speak to a terminal
_UNSAFE = dict.fromkeys([*range(9), *range(11, 32), *range(127, 160), 0xFFFD], "?")


class Output:
    """A bounded copy of a stream: half of `limit` bytes from its start, half from its end."""

    def __init__(self, limit: int) -> None:
        self.total = 0
        self._half = max(1, limit // 2)
        self._head = bytearray()
        self._tail = bytearray()

    def add(self, data: bytes) -> None:
        """Append bytes."""
        self.total += len(data)
        free = self._half - len(self._head)
        if free > 0:
            self._head += data[:free]
            data = data[free:]
        self._tail += data[-self._half :]
        if len(self._tail) > 2 * self._half:
            del self._tail[: -self._half]

    def text(self) -> str:
        """Return readable text: invalid UTF-8 and control characters become ``?``, line ends newlines."""
        tail = self._tail[-self._half :]
        left_out = self.total - len(self._head) - len(tail)
        if not left_out:
            return _clean(self._head + tail)
        return f"{_clean(self._head)}\n[... {left_out} bytes left out ...]\n{_clean(tail)}"

    def end(self, size: int) -> str:
        """Return the last `size` bytes or so as text."""
        return _clean((self._head + self._tail)[-size:])

    def save(self, path: str) -> None:
        """Write the text to `path`, atomically."""
        temporary = f"{path}.partial"
        with open(temporary, "w", encoding="utf-8", newline="\n") as file:
            file.write(self.text())
        os.replace(temporary, path)


def _clean(data: bytes | bytearray) -> str:
    text = data.decode("utf-8", errors="replace").replace("\r\n", "\n").replace("\r", "\n")
    return text.translate(_UNSAFE)
