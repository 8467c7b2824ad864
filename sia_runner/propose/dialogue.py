"""Records a proposer's model calls, so that an interrupted proposal is replayed and not paid again."""

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sia_runner.records import Reply, ToolCall, Usage


class Dialogue:
    """The calls of one proposal, in order.

    Recorded answers are returned as long as the requests are the same; at the first that differs, the rest is dropped
    and asked again.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._position = path, 0
        self._recorded = _read(path)

    def answer(self, request: Any, ask: Callable[[], Reply]) -> Reply:
        """Return the recorded reply to `request` (JSON data), or call `ask()` and record its reply."""
        digest = hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()
        position, self._position = self._position, self._position + 1
        if position < len(self._recorded) and self._recorded[position]["request_sha256"] == digest:
            return _reply(self._recorded[position]["reply"])
        del self._recorded[position:]
        reply = ask()
        self._recorded.append({"request_sha256": digest, "reply": asdict(reply)})
        self._write(position)
        return reply

    def _write(self, position: int) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        earlier = "".join(json.dumps(line) + "\n" for line in self._recorded[:position])
        with self._path.open("r+" if self._path.is_file() else "w", encoding="utf-8") as stream:
            stream.seek(len(earlier))  # json.dumps writes ASCII: a character is a byte
            stream.truncate()
            stream.write(json.dumps(self._recorded[position]) + "\n")
            stream.flush()
            os.fsync(stream.fileno())


def _read(path: Path) -> list[dict[str, Any]]:
    """Read complete lines: a kill may have cut the last one."""
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
