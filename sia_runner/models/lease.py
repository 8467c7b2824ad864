"""Allowances: the shares of the run's budget that each process may spend, in RUN/ledger/leases.jsonl.

    {"lease": "20261121T080000-1f2e3d4c", "process": {"host": …, "pid": …}, "holds": {"work.usd": 1200000000000}}

The file is changed under one file lock. Only its process may spend an allowance; what counts against a limit is the
larger of the allowance and the sums of the process's own file. A later line of an allowance replaces the earlier one.
Whoever finds an allowance whose process is gone closes it; then only its file counts.
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
    """The share of the budget that one process may spend."""

    process: Mapping[str, Any]
    holds: Mapping[str, int] = field(default_factory=dict)  # "pool.unit" -> picodollars, tokens, calls
    closed: bool = False
    final: bool = False  # closed, and its file read to the end
    ledger_file: Book = field(default_factory=Book)

    def counts(self, pool: str, unit: int) -> int:
        """Return what counts against a pool's limit: the larger of the allowance and the use."""
        return max(self.holds.get(f"{pool}.{UNITS[unit]}", 0), self.ledger_file.used(pool, unit))


class Leases:
    """The register of all allowances of a run, as far as it was read, without this process's own."""

    def __init__(self, folder: Path, own_name: str = "") -> None:
        self._folder, self._path, self._own_name = folder, folder / REGISTER, own_name
        self._read = 0  # bytes of the register
        self._others: dict[str, Lease] = {}

    def refresh(self) -> Iterable[Lease]:
        """Read the register and the other processes' files to their end; return the other allowances."""
        if self._path.exists():
            self._read_register()
        for name, allowance in self._others.items():
            if not allowance.final:
                allowance.final = allowance.closed
                allowance.ledger_file.catch_up(self._folder / f"{name}.jsonl")
            if allowance.final:
                allowance.ledger_file.abandon()
        return self._others.values()

    @contextmanager
    def locked(self) -> Iterator[Iterable[Lease]]:
        """Lock the register against other processes and yield the other allowances."""
        self._folder.mkdir(parents=True, exist_ok=True)
        with self._path.open("ab") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX)
            yield self.refresh()

    def hold(self, holds: Mapping[str, int], *, closed: bool = False) -> None:
        """Write this process's new allowance. Call it only inside `locked`."""
        self._append({"lease": self._own_name, "process": alive.identity(), "holds": dict(holds), "closed": closed})

    def reclaim(self, *, all_dead: bool, jobs: Collection[str] = ()) -> None:
        """Close the allowances whose process is gone.

        `all_dead`: this process is the only one that may be alive; `jobs`: SLURM jobs that are over, even if they ran
        on a node whose processes cannot be checked from here.
        """
        if not self._path.exists():
            return
        with self.locked():
            for name, allowance in self._others.items():
                if not allowance.closed and (
                    all_dead or gone(allowance.process) or allowance.process.get("job") in jobs
                ):
                    self._append({"lease": name, "process": dict(allowance.process), "holds": {}, "closed": True})
            self.refresh()

    def _append(self, line: Mapping[str, Any]) -> None:
        """Append a line; end an incomplete last line, cut by a full disk, first."""
        with self._path.open("ab+") as stream:
            stream.seek(max(0, stream.tell() - 1))
            incomplete = stream.read(1) not in (b"", b"\n")
            stream.write(b"\n" * incomplete + json.dumps(line).encode() + b"\n")

    def _read_register(self) -> None:
        with self._path.open("rb") as stream:
            stream.seek(self._read)
            data = stream.read().rpartition(b"\n")[0]
        for line in parsed(data):
            if line["lease"] != self._own_name:
                allowance = self._others.setdefault(line["lease"], Lease(line["process"]))
                allowance.holds, allowance.closed = line["holds"], line["closed"]
        self._read += len(data) + 1 if data else 0


def gone(process: Mapping[str, Any]) -> bool:
    """Return True if the process certainly ended; False where it runs or cannot be checked from here."""
    current = alive.place()
    if process.get("host") != current["host"]:  # it may be an earlier start of this same SLURM job
        return process.get("job") is not None and process["job"] == os.environ.get("SLURM_JOB_ID")
    if process.get("boot") != current["boot"]:
        return True  # this machine has been rebooted since
    return process.get("space") == current["space"] and alive.started(process["pid"]) != process["started"]
