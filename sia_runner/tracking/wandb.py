"""The tracker for Weights & Biases: a process of its own (sender.py) reads the run directory; this one notifies it."""

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
_INTERRUPTED_WAIT = 1.0  # seconds: who interrupts a run, or a cluster that ends it, does not wait for uploads


class Wandb:
    """The tracker ``tracker=wandb``."""

    def __init__(self, wait: float, **_: Any) -> None:
        """Set how long `close` waits, in seconds. The sender reads the other keys from the run's config.yaml."""
        self._wait = wait
        self._local = Local()
        self._senders: dict[Path, _Sender | None] = {}

    def update(self, run: Path, summary: Mapping[str, Any]) -> None:
        """Write metrics.csv as `local` does, and notify the sender."""
        self._local.update(run, summary)
        if summary["status"] == "interrupted" and not summary["waits"]:
            self._wait = min(self._wait, _INTERRUPTED_WAIT)
        if run not in self._senders:
            self._senders[run] = _start_sender(run)
        if sender := self._senders[run]:
            sender.poke()

    def close(self) -> None:
        """Wait until W&B has everything, `wait` seconds at most."""
        senders, self._senders = self._senders, {}
        for sender in filter(None, senders.values()):
            sender.end(self._wait)


def _start_sender(run: Path) -> "_Sender | None":
    spec = importlib.util.find_spec("wandb")
    problem = "wandb is missing (pip install 'sia-runner[tracking]')"
    if spec and spec.origin:  # a folder named wandb, as W&B creates, is no package
        try:
            return _Sender(run)
        except OSError as error:
            problem = f"W&B: {error}"
    _warn(f"{problem}: figures go to metrics.csv only")
    return None


class _Sender:
    """The sender process. It may outlive this one, and learns of this one's end from its standard input."""

    def __init__(self, run: Path) -> None:
        self._run, self._has_warned = run, False
        search_path = os.pathsep.join(filter(None, [str(_ROOT), os.environ.get("PYTHONPATH")]))
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "sia_runner.tracking.sender", str(run)],
            env={**os.environ, "PYTHONPATH": search_path},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C is for the run; and see sender._lower_priority
        )
        assert self._process.stdin is not None  # noqa: S101 - asked for above
        self._stdin = self._process.stdin.fileno()
        os.set_blocking(self._stdin, False)
        threading.Thread(target=self._listen, name="wandb", daemon=True).start()

    def poke(self) -> None:
        """Notify the sender. Never waits: a full pipe is an unread notification, and a dead sender needs none."""
        with suppress(OSError):
            os.write(self._stdin, b".")

    def end(self, wait: float) -> None:
        with suppress(OSError):
            self._process.stdin.close()  # type: ignore[union-attr]
        try:
            self._process.wait(wait)
        except (subprocess.TimeoutExpired, KeyboardInterrupt):
            process = f"process {self._process.pid} goes on for ten minutes at most"
            afterwards = f"afterwards python -m sia_runner sync {self._run} pushes what is missing"
            self._warn(f"W&B has not taken everything yet: {process}; {afterwards}")

    def _listen(self) -> None:
        for line in self._process.stdout or ():
            self._warn(line.decode(errors="replace").rstrip())

    def _warn(self, line: str) -> None:
        """Print the first warning only: what the user can do about it is the same for all."""
        if not self._has_warned:
            self._has_warned = True
            _warn(line)


def _warn(line: str) -> None:
    print(f"tracker: {line}", file=sys.stderr, flush=True)
