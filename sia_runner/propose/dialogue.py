"""What a proposer and its model said, answer by answer: a proposal cut by a kill is replayed, not paid again."""

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sia_runner.records import Reply, ToolCall, Usage


class Dialogue:
    """One proposal's calls, in order. An answer is given again as long as the requests are the same as recorded; at the
    first that differs, what follows is dropped and asked anew."""

    def __init__(self, path: Path) -> None:
        self._path, self._place = path, 0
        self._recorded = _read(path)

    def answer(self, request: Any, ask: Callable[[], Reply]) -> Reply:
        """The recorded reply to `request` (JSON data), or `ask()` and record it."""
        digest = hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()
        here, self._place = self._place, self._place + 1
        if here < len(self._recorded) and self._recorded[here]["request_sha256"] == digest:
            return _reply(self._recorded[here]["reply"])
        del self._recorded[here:]
        reply = ask()
        self._recorded.append({"request_sha256": digest, "reply": asdict(reply)})
        self._write(here)
        return reply

    def _write(self, place: int) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        kept = "".join(json.dumps(line) + "\n" for line in self._recorded[:place])
        with self._path.open("r+" if self._path.is_file() else "w", encoding="utf-8") as stream:
            stream.seek(len(kept))  # json.dumps writes ASCII: a character is a byte
            stream.truncate()
            stream.write(json.dumps(self._recorded[place]) + "\n")
            stream.flush()
            os.fsync(stream.fileno())


def _read(path: Path) -> list[dict[str, Any]]:
    """Whole lines only: the last one may have been cut by a kill."""
    if not path.is_file():
        return []
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n")[:-1]
    try:
        return [json.loads(line) for line in lines]
    except ValueError:
        return []


def _reply(data: dict[str, Any]) -> Reply:
    return Reply(
        text=data["text"],
        tool_calls=tuple(ToolCall(**call) for call in data["tool_calls"]),
        finish_reason=data["finish_reason"],
        message=data["message"],
        usage=Usage(**data["usage"]),
    )
