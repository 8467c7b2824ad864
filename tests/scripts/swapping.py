"""A scripted proposer for any task: ``python -m tests.provider tests/scripts/swapping.py:reply``.

Generation 1 submits the reference harness as it is; each later one writes the next program of SIA_TEST_PROGRAMS
(paths), tries it on dev, and submits it.
"""

import os
from pathlib import Path

from tests.provider import Answer, Request
from tests.scripts.proposer import PROGRAM, TRY, Call, generation, submit, write


def reply(request: Request) -> Answer:
    moves = _moves(generation(request))
    said = sum(message["role"] == "assistant" for message in request.messages)
    return Answer("", moves[min(said, len(moves) - 1)])


def _moves(n: int) -> list[tuple[Call, ...]]:
    if n == 1:
        return [(submit("the reference"),)]
    program = Path(os.environ["SIA_TEST_PROGRAMS"].split(os.pathsep)[n - 2])
    return [(write(program.read_text(encoding="utf-8"), PROGRAM), TRY), (submit(program.stem),)]
