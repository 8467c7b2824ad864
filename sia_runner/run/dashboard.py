"""``web=true``: the live dashboard of a run, in a process of its own beside it, while the run is carried out."""

import importlib.util
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from sia_runner.config import Experiment
from sia_runner.rundir import RunDir, RunError

_PACKAGES = ("fastapi", "uvicorn")


def check(config: Experiment) -> None:
    """Raises RunError where it is asked for and cannot be had."""
    missing = [name for name in _PACKAGES if importlib.util.find_spec(name) is None] if config.web else []
    if missing:
        raise RunError(f"web=true needs {missing[0]}: pip install 'sia-runner[web]'; or web=false")


@contextmanager
def dashboard(config: Experiment, run: RunDir, say: Callable[[str], None]) -> Iterator[None]:
    """`say` is told the address. With a token, which the harnesses of the run do not know. Trouble with it is said,
    and the run goes on."""
    if not config.web:
        yield
        return
    command = [sys.executable, "-m", "sia_runner.web", f"runs_dir={run.path}", "port=0", "token=true", "until=stdin"]
    process = subprocess.Popen(
        command, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    told = threading.Thread(target=_tell, args=(process.stdout, say), daemon=True)
    told.start()
    try:
        yield
    finally:
        if process.stdin:
            process.stdin.close()  # which ends it; its output is closed by who reads it, who may be reading
        process.wait()
        told.join()


def _tell(lines: Iterable[str] | None, say: Callable[[str], None]) -> None:
    for line in lines or ():
        say(line.rstrip())
