"""The folder through which a driver and its workers exchange tasks and results, on any shared file system.

todo/<ticket>~<attempt>            a pickled callable, claimed by renaming it
held/<ticket>~<attempt>~<worker>   at work
done/<ticket>                      its outcome; linked to its name, so that there is one result only
workers/<worker>                   the worker's identity; touched while it lives
driver                             touched while a driver lives
closed                             exists when workers shall end
"""

import os
import pickle
import re
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sia_runner.compute.outcome import RETURNED, Outcome, raised
from sia_runner.ground.alive import identity
from sia_runner.rundir import read_json, write_json

Task = Callable[[], Any]
HEARTBEAT = 5.0  # seconds between touches
STALE_AFTER = 60.0  # seconds without a touch, where the process itself cannot be looked for

_TICKET = re.compile(r"[\w.-]+")


@dataclass(frozen=True, slots=True)
class Claim:
    """A task at work; `file` holds the pickled callable."""

    file: Path

    @property
    def ticket(self) -> str:
        """The task's ticket."""
        return self.file.name.split("~")[0]

    @property
    def attempt(self) -> int:
        """The number of workers that were lost with it."""
        return int(self.file.name.split("~")[1])

    @property
    def worker(self) -> str:
        """The name of the worker that runs it."""
        return self.file.name.split("~")[2]

    def task(self) -> Any:
        """Load the task and run it."""
        return pickle.loads(self.file.read_bytes())()  # noqa: S301 - out of reach of every sandbox


class Spool:
    """The folder of one pool."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.todo, self.held, self.done = path / "todo", path / "held", path / "done"
        self.workers, self.driver, self.closed = path / "workers", path / "driver", path / "closed"
        self._me = {"nonce": uuid.uuid4().hex, **identity()}

    def open(self) -> None:
        """Make the folders and announce this driver."""
        for folder in (self.todo, self.held, self.done, self.workers):
            folder.mkdir(parents=True, exist_ok=True)
        self.closed.unlink(missing_ok=True)
        write_json(self.driver, self._me)

    def close(self) -> None:
        """Tell workers to end, unless another driver has taken over since."""
        if read_json(self.driver) == self._me:
            self.closed.touch()

    def take_over(self) -> set[str]:
        """Return tickets of an earlier driver that are at work or finished; drop tasks that were not begun.

        Those are submitted again, with the current configuration.
        """
        for name in _listed(self.todo):
            (self.todo / name).unlink(missing_ok=True)
        at_work = {claim.ticket for claim in self.claims()}
        returned = {name.split("~")[0] for name in _listed(self.todo)}  # while we looked
        return at_work | returned | set(self.finished())

    def put(self, ticket: str, task: Task) -> None:
        """Queue a task.

        Raises ValueError where the ticket is no file name, pickle's error where the task cannot be pickled.
        """
        if not _TICKET.fullmatch(ticket):
            raise ValueError(f"ticket {ticket!r}: allowed are letters, digits and _ . -")
        _write(self.todo / f"{ticket}~0", pickle.dumps(task))

    def claim(self, worker: str) -> Claim | None:
        """Claim the first task, by the order of tickets, that no other worker claimed first."""
        for name in _listed(self.todo):
            file = self.held / f"{name}~{worker}"
            try:
                (self.todo / name).rename(file)
            except FileNotFoundError:  # another worker was faster, or the server repeated the request
                if not file.exists():
                    continue
            return Claim(file)
        return None

    def publish(self, claim: Claim, outcome: Outcome) -> None:
        """Store an outcome and release the task; the first outcome of a ticket counts."""
        aside = self.done / f".{claim.file.name}.{uuid.uuid4().hex}"
        _write(aside, pickle.dumps(outcome))
        try:
            os.link(aside, self.done / claim.ticket)
        except FileExistsError:
            pass
        finally:
            aside.unlink()
            claim.file.unlink(missing_ok=True)

    def give_back(self, claim: Claim, *, lost: bool) -> None:
        """Return a task for another worker, if it is still claimed.

        `lost`: its worker ended in the middle of it.
        """
        try:
            claim.file.rename(self.todo / f"{claim.ticket}~{claim.attempt + lost}")
        except FileNotFoundError:
            return

    def claims(self) -> list[Claim]:
        """List the tasks at work."""
        return [Claim(self.held / name) for name in _listed(self.held)]

    def finished(self) -> list[str]:
        """List tickets with an outcome."""
        return _listed(self.done)

    def outcome(self, ticket: str) -> Outcome:
        """Return the outcome of a ticket; raise KeyError while there is none."""
        try:
            return pickle.loads((self.done / ticket).read_bytes())  # noqa: S301 - out of reach of every sandbox
        except FileNotFoundError:
            raise KeyError(ticket) from None

    def forget(self, ticket: str) -> None:
        """Remove the outcome of a ticket."""
        (self.done / ticket).unlink(missing_ok=True)

    def at_work(self) -> list[str]:
        """List workers that announced themselves and have not left."""
        return _listed(self.workers)

    def worker(self, name: str) -> dict[str, Any] | None:
        """Return the identity of a worker; None when it left."""
        try:
            return read_json(self.workers / name)
        except FileNotFoundError:
            return None


def ran(task: Task) -> Outcome:
    """Run a task and return its outcome; an interrupt or an exit is raised as it is."""
    try:
        value = task()
        pickle.dumps(value)
    except Exception as error:  # noqa: BLE001 - it is raised again where the outcome is read
        return raised(error)
    return Outcome(RETURNED, value)


def _write(path: Path, data: bytes) -> None:
    """Write a file whole or not at all."""
    aside = path.with_name(f".{path.name}.{os.getpid()}.new")
    with aside.open("wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())
    aside.replace(path)


def _listed(folder: Path) -> list[str]:
    """List a folder.

    It is touched first: a network file system then lists it anew, instead of as it was half a minute ago.
    """
    os.utime(folder)
    return sorted(name for name in os.listdir(folder) if not name.startswith("."))  # noqa: PTH208
