"""The answers of the local provider in benchmarks."""

from tests.provider import Answer, Request

_TEXT = "Plain text of about the length of a short answer, so that there is something to read and to count. " * 4


def answer(request: Request) -> Answer:
    del request
    return Answer(_TEXT)
