"""``python -m sia_runner.tracking.sender RUN [key=value ...]``: the process that speaks with W&B, beside the run.

It reads the run directory and nothing else, so that it cannot stop, slow or change the run. A byte on standard input
means news; its end, that the run's process has ended. Messages are single lines. Exit code 0: W&B has everything.
"""

import os
import select
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock

from sia_runner.config.migration import read_stored_config
from sia_runner.records import Json
from sia_runner.store.run_directory import RunDir
from sia_runner.tracking import facts, server

if TYPE_CHECKING:
    from sia_runner.tracking.mirror import WandbMirror

ONLINE_ONLY = "online=true"  # option of `sync`: fail without a server
_POLL_SECONDS = 2.0  # between two reads of the training curve
_NICENESS = 5  # about a quarter of a contended processor: at 19 the sender would starve on a busy node
_START_LIMIT = 300.0  # seconds for the start of W&B
_CATCH_UP_LIMIT = 600.0  # seconds for one catch_up, and for the rest after the run's end
_SYNC_LIMIT = 24 * 3600.0  # seconds: a user waits for `sync` and can interrupt it


def main() -> int:
    """Run the sender. Return its exit code."""
    _lower_priority()
    run, arguments = RunDir(Path(sys.argv[1]).resolve()), sys.argv[2:]
    try:
        os.chdir(run.path)  # see facts.anonymous_path
        return _send(run, arguments)
    except BaseException as error:  # noqa: BLE001 - whatever it is, it is no business of the run's
        _print_line(f"W&B: {_error_line(error)}; nothing is lost: {_sync_hint(run)}")
        return 1


def _lower_priority() -> None:
    """Lower the priority, as harnesses come first, except for a user who waits for `sync`."""
    if os.getsid(0) == os.getpid():
        os.nice(_NICENESS)
        with suppress(OSError):  # Linux may share processors among sessions, whatever the niceness of their processes
            Path("/proc/self/autogroup").write_text(str(_NICENESS))


def _send(run: RunDir, arguments: list[str]) -> int:
    pushing = ONLINE_ONLY in arguments
    overrides = dict(pair.split("=", 1) for pair in arguments if pair != ONLINE_ONLY)
    options = read_stored_config(run.config)["tracker"] | overrides | {"elsewhere": bool(overrides)}
    run.tracking.mkdir(exist_ok=True)
    lock = FileLock(run.tracking / "sender.lock", timeout=_CATCH_UP_LIMIT)  # an earlier process may be about to end
    with lock, _time_limit(_START_LIMIT, run) as start_timer:
        os.environ["WANDB_DATA_DIR"] = facts.anonymous_path(run, run.tracking)
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # reports go to W&B's makers and may contain memory
        import wandb

        if offline := server.why_offline(wandb.setup().settings):
            _print_line(f"{run.path}: {offline}" if pushing else f"W&B is kept offline: {offline}; {_sync_hint(run)}")
            if pushing:
                return 1
        mirror = _start_mirror(run, options, online=not offline, pushing=pushing)
        start_timer.cancel()
        while not _run_ended():
            with _time_limit(_CATCH_UP_LIMIT, run):
                mirror.catch_up()
        with _time_limit(_SYNC_LIMIT if pushing else _CATCH_UP_LIMIT, run):
            mirror.finish(mirror.catch_up(last=True)["status"])
    if pushing:
        _print_line(f"{run.path}: {mirror.sent or 'no'} rows and versions were missing in W&B")
    return 0


def _start_mirror(run: RunDir, options: Json, *, online: bool, pushing: bool) -> "WandbMirror":
    from wandb.errors import Error

    from sia_runner.tracking.mirror import WandbMirror

    try:
        return WandbMirror(run, options, online=online)
    except Error as error:  # the server knows the key but then fails
        if pushing or not online:
            raise
        _print_line(f"W&B is kept offline: {_error_line(error)}; {_sync_hint(run)}")
        return WandbMirror(run, options, online=False)


def _run_ended() -> bool:
    ready, _, _ = select.select([0], [], [], _POLL_SECONDS)
    return bool(ready) and not os.read(0, 4096)


@contextmanager
def _time_limit(seconds: float, run: RunDir) -> Iterator[threading.Timer]:
    """End this process if the block takes longer than `seconds`."""

    def give_up() -> None:
        _print_line(f"W&B has not answered for {seconds:.0f} s; nothing is lost: {_sync_hint(run)}")
        os._exit(1)

    timer = threading.Timer(seconds, give_up)
    timer.daemon = True
    timer.start()
    try:
        yield timer
    finally:
        timer.cancel()


def _sync_hint(run: RunDir) -> str:
    return f"python -m sia_runner sync {run.path} pushes it"


def _error_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".strip().splitlines()[0][:300]


def _print_line(line: str) -> None:
    with suppress(OSError):  # the reader may be gone
        os.write(1, f"{line}\n".encode(errors="replace"))


if __name__ == "__main__":
    os._exit(main())  # wandb's exit handler would wait without limit
