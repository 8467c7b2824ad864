"""A provider whose prices and latencies are drawn: ``python -m tests.provider tests/scripts/spending.py:reply``.

Also used from a test's own process, with a seed of its own.
"""

import random
from collections.abc import Callable

from tests.provider import Answer, Request
from tests.scripts import proposer

MOST_TOKENS = 300  # as the harnesses ask for


def spender(seed: int) -> Callable[[Request], Answer]:
    """Answers take a random while and a random number of tokens, up to all that the request allows."""

    def reply(request: Request) -> Answer:
        draw = random.Random(f"{seed} {request.n}")
        delay = draw.choice((0.0, 0.0, 0.005, 0.05))
        if proposer.is_proposer(request):
            said = proposer.answer(request)
            return Answer(said.text, said.tool_calls, delay=delay)
        most = request.body.get("max_tokens") or request.body.get("max_completion_tokens") or MOST_TOKENS
        return Answer("Answer: nothing", output_tokens=draw.randint(1, most), delay=delay)

    return reply
