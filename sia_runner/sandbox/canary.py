"""The honest way to know whether a sandbox works here: run something in it."""

import tempfile
from pathlib import Path

from sia_runner.sandbox.protocol import Ending, Job, Limits, Sandbox


def problem(sandbox: Sandbox) -> str:
    """Why `sandbox` does not work here, in one line; empty when a trivial harness ran and wrote its file."""
    with tempfile.TemporaryDirectory(prefix="sia-check-") as name:
        folder = Path(name)
        folder.chmod(0o755)  # a harness may run as another user
        for part in ("harness", "data", "work"):
            (folder / part).mkdir()
        (folder / "harness" / "main.py").write_text("open('made', 'w').close()\n")
        job = Job(folder / "harness", "main.py", folder / "data", folder / "work", folder / "log", Limits(seconds=30))
        ended = sandbox.run(job)
        if ended.ending is Ending.EXITED and ended.exit_code == 0 and (folder / "work" / "made").is_file():
            return ""
    return f"{sandbox.name} cannot make a sandbox here: {ended.detail or ended.ending.value}"
