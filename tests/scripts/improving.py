"""Both roles of a run behind one endpoint: ``python -m tests.provider tests/scripts/improving.py:reply``.

Environment: SIA_TEST_GOLD, see target.py; SIA_TEST_SEEN, a file that takes every request a proposer made;
SIA_TEST_DELAY, seconds before each answer of the target model; SIA_TEST_DIES, the number of requests after which the
process is gone.
"""

import os
from dataclasses import replace
from pathlib import Path

from tests.provider import Answer, Request
from tests.scripts import proposer, target

DELAY = float(os.environ.get("SIA_TEST_DELAY", "0"))
DIES = float(os.environ.get("SIA_TEST_DIES", "inf"))


def reply(request: Request) -> Answer:
    if request.n >= DIES:
        os._exit(1)
    if not proposer.is_proposer(request):
        return replace(target.answer(request), delay=DELAY)
    if seen := os.environ.get("SIA_TEST_SEEN"):
        with Path(seen).open("a", encoding="utf-8") as stream:
            stream.write(proposer.as_line(request))
    return proposer.answer(request)
