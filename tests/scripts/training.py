"""A proposer that trains: it submits the reference harness, then measures, and takes an algorithm of its own choice.

``python -m tests.provider tests/scripts/training.py:reply``. SIA_TEST_ALGORITHM: the choice; SIA_TEST_SEEN: a file that
takes every request.
"""

import os
from pathlib import Path

from tests.provider import Answer, Request
from tests.scripts import proposer

ALGORITHM = os.environ.get("SIA_TEST_ALGORITHM", "")
MOVES = {
    1: [(proposer.submit("the reference"),)],
    2: [
        (proposer.OVERVIEW, ("measure_rewards", {})),
        (("train_weights", {**proposer.submit("train")[1], "algorithm": "sgd"}),),  # type: ignore[dict-item]
        (("train_weights", {**proposer.submit("train")[1], "algorithm": ALGORITHM}),),  # type: ignore[dict-item]
    ],
}


def reply(request: Request) -> Answer:
    with Path(os.environ["SIA_TEST_SEEN"]).open("a", encoding="utf-8") as stream:
        stream.write(proposer.as_line(request))
    moves = MOVES[proposer.generation(request)]
    said = sum(message["role"] == "assistant" for message in request.messages)
    return Answer("", moves[min(said, len(moves) - 1)])
