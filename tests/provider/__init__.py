"""A local provider of language models for tests: see `server.ProviderServer` and `answers`."""

from tests.provider.answers import (
    Answer,
    Endless,
    Hang,
    Huge,
    Malformed,
    Reaction,
    Request,
    Reset,
    Status,
    Tally,
    Truncated,
)
from tests.provider.server import ProviderServer

__all__ = [
    "Answer",
    "Endless",
    "Hang",
    "Huge",
    "Malformed",
    "ProviderServer",
    "Reaction",
    "Request",
    "Reset",
    "Status",
    "Tally",
    "Truncated",
]
