"""Runs an OpenHands agent with its file editor and terminal as a proposer (meta_agent=openhands)."""

import sys

from sia_runner.agents.guests.guest import Guest
from sia_runner.agents.protocol import ProposerError


class OpenHands(Guest):
    """An OpenHands agent as a guest."""

    name = "openhands"
    needs = ("openhands.sdk", "openhands.tools")

    @classmethod
    def check(cls) -> None:
        """Raise ProposerError where Python is too old or the package is missing."""
        if sys.version_info < (3, 12):
            version = f"{sys.version_info.major}.{sys.version_info.minor}"
            raise ProposerError(
                f"meta_agent=openhands needs Python 3.12 or newer, as its package does; this is {version}"
            )
        super().check()
