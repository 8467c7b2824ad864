"""The driver program: enters the workspace, runs the agent of `driver.py`, writes its last message."""

# Runs inside the sandbox, where `driver.py` lies beside it.
# pyright: reportMissingImports=false

import mimetypes

from workspace import enter


def main() -> None:
    """Run the driver's agent and record how it ended."""
    space = enter()
    mimetypes.knownfiles.clear()  # importing an agent's package reads them, which a sandbox may forbid
    from driver import work  # one of the drive_*.py beside this file

    try:
        words, interruption = work(space)
    except Exception as error:  # noqa: BLE001 - whatever an agent's package raises is how it ended
        # the cause is closer to what happened, and without the names that packages invent for a run
        cause = error.__cause__ or error
        words, interruption = "", f"{type(cause).__name__}: {cause}"
    space.leave(words, interruption)


if __name__ == "__main__":
    main()
