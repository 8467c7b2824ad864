"""The scripted target model: how often it is right depends on what the prompt asks for, which question on its text."""

import hashlib
import json
import os
from functools import lru_cache
from pathlib import Path

from tests.provider import Answer, Request
from tests.scripts.harnesses import rate

GOLD = "SIA_TEST_GOLD"  # a JSON file of the test's own folder, question text -> gold answer; never in the repository


@lru_cache(maxsize=1)
def gold(path: str) -> dict[str, str]:
    return json.loads(Path(path).read_text(encoding="utf-8"))


def luck(text: str) -> float:
    """In [0, 1), the same for the same text."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:6]) / 2**48


def answer(request: Request) -> Answer:
    asked = request.last
    question = max((text for text in gold(os.environ[GOLD]) if text in asked), key=len, default=None)
    if question is None:
        return Answer("I do not know this one.\nAnswer: none")
    right = gold(os.environ[GOLD])[question]
    said = right if luck(question) < rate(request.text) else wrong(right)
    asked_for = f"solution = {said}\n" if "solution =" in asked else ""  # chess questions name a form of their own
    return Answer(f"Let me think about it.\n{asked_for}Answer: {said}")


def wrong(right: str) -> str:
    if right in "ABCD":
        return "ABCD"[("ABCD".index(right) + 1) % 4]
    return str(int(right) + 1) if right.lstrip("-").isdigit() else "Ka1"
