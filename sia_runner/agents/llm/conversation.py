"""Holds the messages of a proposal and keeps each request below a number of bytes.

When the messages exceed the limit, the oldest are cut first, to well below it. Cuts are therefore rare, and between
two cuts every request begins with the previous one, which providers' prompt caches reward.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from sia_runner.agents.llm.desk import clip
from sia_runner.agents.llm.shorten import shorten_arguments, shorten_result, shorten_text
from sia_runner.agents.protocol import Message

_AFTER_CUT = 0.7  # of the limit
_HEAD = 2  # the system prompt and the task stay


class Conversation:
    """The messages of one proposal, bounded in bytes."""

    def __init__(self, system: str, task: str, tools: Sequence[Message], limit: int) -> None:
        """Start with the system prompt and the task; `limit` is in bytes of the request's JSON, messages and tools."""
        self.tools = list(tools)
        self._limit = limit - _size(self.tools) - 64  # the keys around them
        self._messages: list[Message] = [{"role": "system", "content": system}, {"role": "user", "content": task}]
        self._sizes = [_size(message) for message in self._messages]
        self._newest = _HEAD  # index of the newest answer of the model

    @property
    def messages(self) -> list[Message]:
        """The messages of the next request."""
        return list(self._messages)

    def add(self, answer: Message, results: Sequence[Message]) -> None:
        """Add the model's message and its tool results, or the one user message that answers it."""
        self._newest = len(self._messages)
        for message in (answer, *results):
            self._messages.append(message)
            self._sizes.append(_size(message))
        self._fit()

    def _fit(self) -> None:
        if sum(self._sizes) <= self._limit:
            return
        goal = int(self._limit * _AFTER_CUT)
        for shorten in (shorten_result, shorten_text, shorten_arguments):
            for position in range(_HEAD, self._newest):
                if sum(self._sizes) <= goal:
                    return
                self._put(position, shorten(self._messages[position]))
        while sum(self._sizes) > goal and self._newest > _HEAD:
            self._forget_oldest()
        if sum(self._sizes) > self._limit:
            self._fit_newest()

    def _forget_oldest(self) -> None:
        """Drop the oldest answer with its results: providers refuse a result without its call."""
        following = range(_HEAD + 1, len(self._messages))
        end = next((i for i in following if self._messages[i]["role"] == "assistant"), self._newest)
        del self._messages[_HEAD:end], self._sizes[_HEAD:end]
        self._newest -= end - _HEAD

    def _fit_newest(self) -> None:
        """Shorten the newest results first, then the newest answer."""
        results = range(self._newest + 1, len(self._messages))
        available = self._limit - sum(self._sizes[: self._newest + 1])
        share = max(0, available // max(1, len(results)))
        for position in results:
            self._put(position, _clipped(self._messages[position], share))
        for shorten in (shorten_text, shorten_arguments):
            if sum(self._sizes) > self._limit:
                self._put(self._newest, shorten(self._messages[self._newest]))

    def _put(self, position: int, message: Message) -> None:
        self._messages[position], self._sizes[position] = message, _size(message)


def _clipped(message: Message, share: int) -> Message:
    """Return the message with its content cut so that its JSON takes at most `share` bytes, or as few as possible."""
    content, around = str(message["content"]), _size({**message, "content": ""})
    for length in (share - around, (share - around) // 2, (share - around) // 6):  # escapes take up to six bytes each
        clipped = {**message, "content": clip(content, max(0, length))}
        if _size(clipped) <= share:
            return clipped
    return shorten_result(message)


def _size(value: Sequence[Message] | Mapping[str, Any]) -> int:
    """Return the bytes of JSON, including the comma that follows."""
    return len(json.dumps(value, ensure_ascii=False).encode(errors="replace")) + 2
