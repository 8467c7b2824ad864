"""The live dashboard of one run (``web=true``), in a separate process while the run is carried out."""

import importlib.util
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from sia_runner.config import Experiment
from sia_runner.rundir import RunDir, RunError

_PACKAGES = ("fastapi", "uvicorn")


def check_dashboard(config: Experiment) -> None:
    """Raise RunError where the dashboard is requested but its packages are missing."""
    missing = [name for name in _PACKAGES if importlib.util.find_spec(name) is None] if config.web else []
    if missing:
        raise RunError(f"web=true needs {missing[0]}: pip install 'sia-runner[web]'; or web=false")


@contextmanager
def live_dashboard(config: Experiment, run: RunDir, say: Callable[[str], None]) -> Iterator[None]:
    """Start the dashboard of the run and pass its address to `say`.

    The address contains a token that the harnesses of the run do not know. Problems are reported, and the run goes on.
    """
    if not config.web:
        yield
        return
    command = [sys.executable, "-m", "sia_runner.web", f"runs_dir={run.path}", "port=0", "token=true", "until=stdin"]
    process = subprocess.Popen(
        command, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    reader = threading.Thread(target=_forward_lines, args=(process.stdout, say), daemon=True)
    reader.start()
    try:
        yield
    finally:
        if process.stdin:
            process.stdin.close()  # this ends it; the reader thread closes its output
        process.wait()
        reader.join()


def _forward_lines(lines: Iterable[str] | None, say: Callable[[str], None]) -> None:
    for line in lines or ():
        say(line.rstrip())
