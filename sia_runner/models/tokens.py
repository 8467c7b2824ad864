"""Tokens from bytes, where nobody counts them: a bound before a call, an estimate after one."""

import math


def bound(body: bytes) -> int:
    """At least as many tokens as this request has: text runs to three or four bytes a token, Chinese to two or more."""
    return len(body) // 2 + 64


def estimate(text: str) -> int:
    """About so many tokens: four ASCII characters each, one for any other character."""
    ascii_only = len(text.encode("ascii", "ignore"))
    return math.ceil(ascii_only / 4) + len(text) - ascii_only
