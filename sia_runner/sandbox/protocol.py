"""The interface of a sandbox: `bubblewrap`, `process` (`auto` picks one of these), `docker`, `apptainer` and `ssh`."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Protocol

from sia_runner.errors import RunnerError
from sia_runner.records import GatewayAddress


class SandboxError(RunnerError):
    """A sandbox that cannot be used here; the message is one line for the user (exit code 2)."""


class Ending(StrEnum):
    """The ways in which a run can end."""

    EXITED = "exited"
    TIMEOUT = "timeout"
    OUT_OF_MEMORY = "out_of_memory"
    MACHINE_OUT_OF_MEMORY = "machine_out_of_memory"  # below the run's own limit; not the harness's fault
    DISK_FULL = "disk_full"
    INTERRUPTED = "interrupted"  # the runner stopped it, or died
    NOT_STARTED = "not_started"  # the sandbox itself failed; not the harness's fault


@dataclass(frozen=True, slots=True)
class SandboxLimits:
    """The bounds of one run: `disk_mb` of work/, `output_kb` of what is stored of stdout and stderr."""

    seconds: float = 600.0
    memory_mb: int = 4096
    processes: int = 128
    disk_mb: int = 512
    file_mb: int = 256
    output_kb: int = 1024
    cpus: int = 1


@dataclass(frozen=True, slots=True)
class SandboxJob:
    """One run of ``python entry --dataset_dir data --working_dir work``; only `work` is writable inside."""

    harness: Path
    entry: str  # path of the program inside `harness`
    data: Path
    work: Path
    log: Path  # head and tail of stdout+stderr, written by the host side
    limits: SandboxLimits
    python: Path | None = None  # interpreter of the harness's own environment; None: the runner's
    env: Mapping[str, str] = field(default_factory=dict)  # added to the environment, which is built from nothing
    gateway: GatewayAddress | None = None  # the only way out: to the model gateway; None: no network at all


@dataclass(frozen=True, slots=True)
class SandboxResult:
    """The result of a run: all that it printed counts in `output_bytes`, the whole process tree in `peak_mb`."""

    ending: Ending
    exit_code: int | None = None
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    peak_mb: float = 0.0
    output_bytes: int = 0
    detail: str = ""


class Sandbox(Protocol):
    """A place where one harness runs, confined."""

    name: str
    is_remote: bool = False  # harnesses run on another machine, to which no pipe in work/ leads

    def check(self, *, with_gateway: bool = False) -> None:
        """Raise SandboxError when this backend cannot work here; `with_gateway`: for harnesses that call models."""

    def gaps(self, *, with_gateway: bool = False) -> list[str]:
        """List what this backend does not protect on this machine, one sentence each, for the start of a run."""
        ...

    def versions(self) -> dict[str, str]:
        """Return the parts inside that are not this machine's own, such as an image and its Id; for lock.json."""
        return {}

    def run(self, job: SandboxJob) -> SandboxResult:
        """Run one job to its end or to a limit, from any thread; it leaves no process, also after a kill -9."""
        ...
