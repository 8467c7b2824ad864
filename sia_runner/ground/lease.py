"""A lease with a heartbeat gives a run directory one writer, on this machine and across nodes.

It names host, process and job. flock does not work on every cluster file system; a file that is linked into place and
touched regularly does. A lease is stale if its process ended (same host and boot) or if nobody touched it for
`STALE_AFTER` seconds by the file system's own clock, so that nodes whose clocks differ agree.
"""

import json
import os
import threading
import uuid
from pathlib import Path
from typing import Any

from sia_runner.ground.alive import gone, identity, untouched
from sia_runner.rundir import RunError

HEARTBEAT = 5.0  # seconds between touches
STALE_AFTER = 60.0  # seconds without a touch


class Held(RunError):
    """Another process holds the lease of this run directory."""


class Lease:
    """A context manager that holds the lease of a run directory; raises Held, naming the holder, if another has it."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "lease.json"
        self._identity = {"nonce": uuid.uuid4().hex, **identity()}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._heartbeat, daemon=True, name="lease")

    def __enter__(self) -> "Lease":
        if not self._create(self._path):
            self._take_over()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        if self._holder().get("nonce") == self._identity["nonce"]:
            self._path.unlink(missing_ok=True)

    def check(self) -> None:
        """Raise Held if the lease was lost, say because this node slept for minutes; call it before a result counts."""
        holder = self._holder()
        if holder.get("nonce") != self._identity["nonce"]:
            raise Held(f"{self._path.parent}: this process lost the run to {_name(holder)}; nothing was overwritten")

    def _create(self, path: Path) -> bool:
        """Create the file atomically (written aside, then linked); return False if it exists."""
        aside = path.with_name(f".{path.name}.{self._identity['nonce']}")
        aside.write_text(json.dumps(self._identity))
        try:
            os.link(aside, path)
        except FileExistsError:
            return False
        finally:
            aside.unlink()
        return True

    def _take_over(self) -> None:
        holder = self._holder()
        if not holder:  # released since we tried to create it
            if self._create(self._path):
                return
            holder = self._holder()
        if not self._stale(holder):
            raise Held(f"{self._path.parent} is being written by {_name(holder)}; wait for it or stop it first")
        # The claim file lets one contender at a time take over this lease; it checks again before it replaces the file.
        claim = self._path.with_name(f".lease.claim.{holder.get('nonce', 'none')}")
        if not self._create(claim) and not (self._abandoned(claim) and self._create(claim)):
            raise Held(f"{self._path.parent} is being taken over by another process; try again in a moment")
        try:
            if self._holder().get("nonce") != holder.get("nonce"):
                raise Held(f"{self._path.parent} was taken over by {_name(self._holder())}")
            aside = self._path.with_name(f".lease.{self._identity['nonce']}")
            aside.write_text(json.dumps(self._identity))
            aside.replace(self._path)
        finally:
            claim.unlink(missing_ok=True)

    def _holder(self) -> dict[str, Any]:
        try:
            return json.loads(self._path.read_text())
        except (OSError, ValueError):
            return {}

    def _stale(self, holder: dict[str, Any]) -> bool:
        return gone(holder, self._path, STALE_AFTER)

    def _abandoned(self, claim: Path) -> bool:
        if untouched(claim) <= STALE_AFTER:
            return False
        claim.unlink(missing_ok=True)
        return True

    def _heartbeat(self) -> None:
        while not self._stop.wait(HEARTBEAT):
            if self._holder().get("nonce") != self._identity["nonce"]:
                return
            os.utime(self._path)


def _name(holder: dict[str, Any]) -> str:
    if not holder:
        return "another process"
    job = f", job {holder['job']}" if holder.get("job") else ""
    return f"process {holder.get('pid')} on {holder.get('host')}{job}"
