"""Token counts from byte counts: a bound before a call, an estimate after one."""

import math


def bound(body: bytes) -> int:
    """Return an upper bound of a request's tokens: text has three or four bytes a token, Chinese two or more."""
    return len(body) // 2 + 64


def estimate(text: str) -> int:
    """Estimate the tokens of a text: four ASCII characters each, one for any other character."""
    ascii_only = len(text.encode("ascii", "ignore"))
    return math.ceil(ascii_only / 4) + len(text) - ascii_only
