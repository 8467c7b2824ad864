"""What is sent: the messages so far, kept below a number of bytes.

When they grow above it, the oldest are cut first, down to well below the limit: so it happens rarely, and between two
cuts every request begins with the last one, which is what providers' prompt caches reward.
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
    def __init__(self, system: str, task: str, tools: Sequence[Message], limit: int) -> None:
        """`limit` in bytes of the request's JSON: messages and tools."""
        self.tools = list(tools)
        self._limit = limit - _size(self.tools) - 64  # the keys around them
        self._messages: list[Message] = [{"role": "system", "content": system}, {"role": "user", "content": task}]
        self._sizes = [_size(message) for message in self._messages]
        self._newest = _HEAD  # index of the newest answer of the model

    @property
    def messages(self) -> list[Message]:
        return list(self._messages)

    def add(self, answer: Message, results: Sequence[Message]) -> None:
        """The model's message and what it is told: one result for each of its tool calls, or one user message."""
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
            for place in range(_HEAD, self._newest):
                if sum(self._sizes) <= goal:
                    return
                self._put(place, shorten(self._messages[place]))
        while sum(self._sizes) > goal and self._newest > _HEAD:
            self._forget_oldest()
        if sum(self._sizes) > self._limit:
            self._fit_newest()

    def _forget_oldest(self) -> None:
        """One answer with its results: a result without its call would be refused by every provider."""
        following = range(_HEAD + 1, len(self._messages))
        end = next((i for i in following if self._messages[i]["role"] == "assistant"), self._newest)
        del self._messages[_HEAD:end], self._sizes[_HEAD:end]
        self._newest -= end - _HEAD

    def _fit_newest(self) -> None:
        """The newest answer and its results alone are too much: the results first, then the answer itself."""
        results = range(self._newest + 1, len(self._messages))
        room = self._limit - sum(self._sizes[: self._newest + 1])
        share = max(0, room // max(1, len(results)))
        for place in results:
            self._put(place, _clipped(self._messages[place], share))
        for shorten in (shorten_text, shorten_arguments):
            if sum(self._sizes) > self._limit:
                self._put(self._newest, shorten(self._messages[self._newest]))

    def _put(self, place: int, message: Message) -> None:
        self._messages[place], self._sizes[place] = message, _size(message)


def _clipped(message: Message, share: int) -> Message:
    """With content so short that the whole message takes at most `share` bytes of JSON, or as short as can be."""
    content, around = str(message["content"]), _size({**message, "content": ""})
    for most in (share - around, (share - around) // 2, (share - around) // 6):  # escapes take up to six bytes each
        clipped = {**message, "content": clip(content, max(0, most))}
        if _size(clipped) <= share:
            return clipped
    return shorten_result(message)


def _size(value: Sequence[Message] | Mapping[str, Any]) -> int:
    """Bytes of JSON, with the comma that follows."""
    return len(json.dumps(value, ensure_ascii=False).encode(errors="replace")) + 2
