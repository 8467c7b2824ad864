"""The driver program: enter the workspace, let the agent of `driver.py` work, leave its last words."""

# Runs inside the sandbox, where `driver.py` lies beside it.
# pyright: reportMissingImports=false

import mimetypes

from workspace import enter


def main() -> None:
    space = enter()
    mimetypes.knownfiles.clear()  # importing an agent's package reads them, which a sandbox may forbid
    from driver import work  # one of the drive_*.py beside this file

    try:
        words, ended = work(space)
    except Exception as error:  # noqa: BLE001 - whatever an agent's package raises is how it ended
        cause = (
            error.__cause__ or error
        )  # closer to what happened, and without the names that packages invent for a run
        words, ended = "", f"{type(cause).__name__}: {cause}"
    space.leave(words, ended)


if __name__ == "__main__":
    main()
