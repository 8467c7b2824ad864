"""Weights & Biases, by a process of its own that reads the run directory (sender.py). The run itself starts it after
its first generation and pokes it from then on: no import, no wait, no queue here."""

import importlib.util
import os
import subprocess
import sys
import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from sia_runner.tracking.local import Local

_ROOT = Path(__file__).resolve().parents[2]


class Wandb:
    def __init__(self, wait: float, **_: Any) -> None:
        """The other keys are the sender's, which reads them from the run's config.yaml."""
        self._wait = wait
        self._local = Local()
        self._senders: dict[Path, _Sender | None] = {}

    def update(self, run: Path, summary: Mapping[str, Any]) -> None:
        """metrics.csv as with `local`, and word to the sender."""
        self._local.update(run, summary)
        if run not in self._senders:
            self._senders[run] = _started(run)
        if sender := self._senders[run]:
            sender.poke()

    def close(self) -> None:
        """Waits until W&B has taken everything, `wait` seconds at most."""
        senders, self._senders = self._senders, {}
        for sender in filter(None, senders.values()):
            sender.end(self._wait)


def _started(run: Path) -> "_Sender | None":
    found = importlib.util.find_spec("wandb")
    if found is None or found.origin is None:  # a folder of that name, as W&B makes them, is no package
        _tell("wandb is missing (pip install 'sia-runner[tracking]'): figures go to metrics.csv only")
        return None
    try:
        return _Sender(run)
    except OSError as error:
        _tell(f"W&B: {error}: figures go to metrics.csv only")
        return None


class _Sender:
    """The process. It outlives this one for as long as it needs, and ends with this one's standard input to it."""

    def __init__(self, run: Path) -> None:
        self._run, self._told = run, False
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "sia_runner.tracking.sender", str(run)],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [str(_ROOT), os.environ.get("PYTHONPATH")]))},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C is for the run; and see sender._step_back
        )
        assert self._process.stdin is not None  # noqa: S101 - asked for above
        self._stdin = self._process.stdin.fileno()
        os.set_blocking(self._stdin, False)
        threading.Thread(target=self._listen, name="wandb", daemon=True).start()

    def poke(self) -> None:
        """Never waits: a full pipe is a poke that was not read yet, and who is gone needs none."""
        with suppress(OSError):
            os.write(self._stdin, b".")

    def end(self, wait: float) -> None:
        with suppress(OSError):
            self._process.stdin.close()  # type: ignore[union-attr]
        try:
            self._process.wait(wait)
        except (subprocess.TimeoutExpired, KeyboardInterrupt):
            self._tell(
                f"W&B has not taken everything yet: process {self._process.pid} goes on for ten minutes at most; "
                f"afterwards python -m sia_runner.sync {self._run} pushes what is missing"
            )

    def _listen(self) -> None:
        for line in self._process.stdout or ():
            self._tell(line.decode(errors="replace").rstrip())

    def _tell(self, line: str) -> None:
        """One warning is enough: what can be done about it is the same."""
        if not self._told:
            self._told = True
            _tell(line)


def _tell(line: str) -> None:
    print(f"tracker: {line}", file=sys.stderr, flush=True)
