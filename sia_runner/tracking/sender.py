"""``python -m sia_runner.tracking.sender RUN [key=value ...]``: the process that speaks with W&B, beside the run.

It reads the run directory and nothing else, so that nothing in it can stop, slow or change the run: that directory is
the queue. A byte on standard input says that there is news; the end of it, that the run's process has ended. What it
has to say are single lines on standard output. Exit codes: 0 all was taken, 1 not.
"""

import fcntl
import os
import select
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sia_runner.rundir import RunDir
from sia_runner.tracking import artifacts, endpoint, facts

if TYPE_CHECKING:
    from sia_runner.tracking.mirror import Mirror

ONLINE_ONLY = "online=true"  # for `sync`: without a server there is nothing to do
_LOOKS = 2.0  # seconds between two looks at the curve of a training
_NICE = 5  # a quarter of a processor that somebody else wants too: at 19 it does not get to its work on a busy node
_BEGIN = 300.0  # seconds until W&B has begun
_END = 600.0  # seconds for one look, and for all that is left when the run has ended
_PUSH = 24 * 3600.0  # seconds: somebody waits for `sync`, and can interrupt it


def main() -> int:
    _step_back()
    run, given = RunDir(Path(sys.argv[1]).resolve()), sys.argv[2:]
    try:
        os.chdir(run.path)  # see artifacts.where
        return _send(run, given)
    except BaseException as error:  # noqa: BLE001 - whatever it is, it is no business of the run's
        _say(f"W&B: {_line(error)}; nothing is lost: {_later(run)}")
        return 1


def _step_back() -> None:
    """Harnesses come first. Where Linux shares processors among sessions, which are equals however nice their processes
    are, this one's session is what has to be nice; but not that of somebody who waits for `sync`."""
    if os.getsid(0) != os.getpid():
        return
    os.nice(_NICE)
    with suppress(OSError):
        Path("/proc/self/autogroup").write_text(str(_NICE))


def _send(run: RunDir, given: list[str]) -> int:
    options = _options(run, given)
    pushing = ONLINE_ONLY in given
    with _alone(run), _limited(_BEGIN, run) as begun:
        os.environ["WANDB_DATA_DIR"] = artifacts.where(run, run.tracking)
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # to its makers, with whatever was in memory
        import wandb

        offline = endpoint.why_offline(wandb.setup().settings)
        if offline and pushing:
            _say(f"{run.path}: {offline}")
            return 1
        if offline:
            _say(f"W&B is kept offline: {offline}; {_later(run)}")
        mirror = _begun(run, options, online=not offline, pushing=pushing)
        begun.cancel()
        while not _ended():
            with _limited(_END, run):
                mirror.catch_up()
        with _limited(_PUSH if pushing else _END, run):
            mirror.finish(mirror.catch_up(last=True)["status"])
    if pushing:
        _say(f"{run.path}: {mirror.sent or 'no'} rows and versions were missing in W&B")
    return 0


def _begun(run: RunDir, options: dict[str, Any], *, online: bool, pushing: bool) -> "Mirror":
    """Offline where the server knows the key and then lets W&B down."""
    from wandb.errors import Error

    from sia_runner.tracking.mirror import Mirror

    try:
        return Mirror(run, options, online=online)
    except Error as error:
        if pushing or not online:
            raise
        _say(f"W&B is kept offline: {_line(error)}; {_later(run)}")
        return Mirror(run, options, online=False)


def _options(run: RunDir, given: list[str]) -> dict[str, Any]:
    """What the run was configured with; given on the command line wins."""
    pairs = dict(pair.split("=", 1) for pair in given if pair != ONLINE_ONLY)
    return facts.config_of(run)["tracker"] | pairs | {"elsewhere": bool(pairs)}


def _ended() -> bool:
    """Waits for news, for a while: False when there may be some, True when the run's process has ended."""
    ready, _, _ = select.select([0], [], [], _LOOKS)
    return bool(ready) and not os.read(0, 4096)


@contextmanager
def _alone(run: RunDir) -> Iterator[None]:
    """One process at a time speaks of a run: that of an earlier process may still be about to end."""
    run.tracking.mkdir(exist_ok=True)
    give_up = time.monotonic() + _END
    with (run.tracking / "sender.lock").open("a") as held:
        while True:
            try:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > give_up:
                    raise
                time.sleep(0.2)
        yield


@contextmanager
def _limited(seconds: float, run: RunDir) -> Iterator[threading.Timer]:
    """Whatever hangs in there, this process ends."""
    timer = threading.Timer(seconds, _give_up, [seconds, run])
    timer.daemon = True
    timer.start()
    try:
        yield timer
    finally:
        timer.cancel()


def _give_up(seconds: float, run: RunDir) -> None:
    _say(f"W&B has not answered for {seconds:.0f} s; nothing is lost: {_later(run)}")
    os._exit(1)


def _later(run: RunDir) -> str:
    return f"python -m sia_runner.sync {run.path} pushes it"


def _line(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".strip().splitlines()[0][:300]


def _say(line: str) -> None:
    with suppress(OSError):  # nobody listens any more
        os.write(1, f"{line}\n".encode(errors="replace"))


if __name__ == "__main__":
    os._exit(main())  # what wandb does at exit is to wait, without limit
