"""Who holds how much of the run's budget: RUN/ledger/leases.jsonl, changed under one file lock.

    {"lease": "20261121T080000-1f2e3d4c", "process": {"host": …, "pid": …}, "holds": {"work.usd": 1200000000000}}

What a lease holds, only its process may spend; what counts against a limit is the larger of what a lease holds and what
its own file says it spent. A later line of a lease replaces the earlier one. A lease whose process is gone is closed by
whoever finds it, and counts by its file alone.
"""

import fcntl
import json
import os
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sia_runner.ground import alive
from sia_runner.models.books import UNITS, Book, parsed

REGISTER = "leases.jsonl"


@dataclass(slots=True)
class Lease:
    process: Mapping[str, Any]
    holds: Mapping[str, int] = field(default_factory=dict)  # "pot.unit" -> picodollars, tokens, calls
    closed: bool = False
    final: bool = False  # closed, and its file read to the end
    book: Book = field(default_factory=Book)

    def counts(self, pot: str, unit: int) -> int:
        return max(self.holds.get(f"{pot}.{UNITS[unit]}", 0), self.book.used(pot, unit))


class Leases:
    """All leases of a run but `mine`, as far as they were read."""

    def __init__(self, folder: Path, mine: str = "") -> None:
        self._folder, self._path, self._mine = folder, folder / REGISTER, mine
        self._read = 0  # bytes of the register
        self._others: dict[str, Lease] = {}

    def refresh(self) -> Iterable[Lease]:
        """The other leases, their files read to the end."""
        if self._path.exists():
            self._read_register()
        for name, lease in self._others.items():
            if not lease.final:
                lease.final = lease.closed
                lease.book.catch_up(self._folder / f"{name}.jsonl")
            if lease.final:
                lease.book.abandon()
        return self._others.values()

    @contextmanager
    def locked(self) -> Iterator[Iterable[Lease]]:
        """No other process reads or changes the register meanwhile."""
        self._folder.mkdir(parents=True, exist_ok=True)
        with self._path.open("ab") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX)
            yield self.refresh()

    def hold(self, holds: Mapping[str, int], *, closed: bool = False) -> None:
        """Write what `mine` holds from now on. Only inside `locked`."""
        self._append({"lease": self._mine, "process": alive.identity(), "holds": dict(holds), "closed": closed})

    def reclaim(self, *, all_dead: bool, jobs: Collection[str] = ()) -> None:
        """Close the leases whose process is gone; `all_dead`: this process is the only one that may be alive; `jobs`:
        of SLURM that are over, though their node may be one where we cannot look."""
        if not self._path.exists():
            return
        with self.locked():
            for name, lease in self._others.items():
                if not lease.closed and (all_dead or gone(lease.process) or lease.process.get("job") in jobs):
                    self._append({"lease": name, "process": dict(lease.process), "holds": {}, "closed": True})
            self.refresh()

    def _append(self, line: Mapping[str, Any]) -> None:
        """In a line of its own, also behind one that a full disk cut."""
        with self._path.open("ab+") as stream:
            stream.seek(max(0, stream.tell() - 1))
            torn = stream.read(1) not in (b"", b"\n")
            stream.write(b"\n" * torn + json.dumps(line).encode() + b"\n")

    def _read_register(self) -> None:
        with self._path.open("rb") as stream:
            stream.seek(self._read)
            whole = stream.read().rpartition(b"\n")[0]
        for line in parsed(whole):
            if line["lease"] != self._mine:
                lease = self._others.setdefault(line["lease"], Lease(line["process"]))
                lease.holds, lease.closed = line["holds"], line["closed"]
        self._read += len(whole) + 1 if whole else 0


def gone(process: Mapping[str, Any]) -> bool:
    """Certainly ended: it ran where we can look, and is not there any more. False where we cannot look."""
    here = alive.place()
    if process.get("host") != here["host"]:  # unless it was an earlier start of the job that we are, on another node
        return process.get("job") is not None and process["job"] == os.environ.get("SLURM_JOB_ID")
    if process.get("boot") != here["boot"]:
        return True  # this machine was started again since
    return process.get("space") == here["space"] and alive.started(process["pid"]) != process["started"]
