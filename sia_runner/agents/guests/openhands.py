"""meta_agent=openhands: an OpenHands agent with its file editor and terminal."""

import sys

from sia_runner.agents.guests.guest import Guest
from sia_runner.agents.protocol import ProposerError


class OpenHands(Guest):
    name = "openhands"
    needs = ("openhands.sdk", "openhands.tools")

    @classmethod
    def check(cls) -> None:
        if sys.version_info < (3, 12):
            here = f"{sys.version_info.major}.{sys.version_info.minor}"
            raise ProposerError(f"meta_agent=openhands needs Python 3.12 or newer, as its package does; this is {here}")
        super().check()
