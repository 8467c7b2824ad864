"""One run of a sweep, carried out in this process or in a job on another node.

It is picklable and safe to repeat: it starts the run, or resumes it where it was cut off.
"""

import os
import sys
import time
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sia_runner.rundir import RunDir
from sia_runner.sweep.plan import SweepDir

CRASHED = 1  # exit code of a run that an error of ours ended
PATIENCE = 120.0  # seconds to wait for the lease of a job that died elsewhere; it is stale after 60


@dataclass(frozen=True, slots=True)
class SweepRun:
    """One run of a sweep as a picklable call.

    `plain` is the composed configuration, unchecked; `overrides` are those of the command line, in order.
    """

    sweep: Path
    name: str
    plain: dict[str, Any]
    overrides: tuple[str, ...]
    environment: Mapping[str, str | None] = field(default_factory=dict)  # variables to restore that submitit changed

    def __call__(self) -> int:
        """Carry out the run and return its exit code, which the sweep's folder keeps as well."""
        from sia_runner.compose.refusals import refusals

        for key, value in self.environment.items():
            os.environ.pop(key, None) if value is None else os.environ.update({key: value})
        try:
            with refusals(self.plain) as outcome:
                outcome.code = self._start_or_resume()
            code, lines = outcome.code, outcome.lines
        except Exception as error:  # noqa: BLE001 - any error is the outcome of this run and must not end others
            traceback.print_exc()
            code, lines = CRASHED, [f"{type(error).__name__}: {error}".splitlines()[0]]
        folder = self.sweep / self.name
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()  # Hydra made it before the checks; nothing was started
        SweepDir(self.sweep).end(self.name, code, lines)
        return code

    def checkpoint(self) -> Any:
        """Return the same run for submitit, which queues a job that is preempted or out of time again."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)

    def _start_or_resume(self) -> int:
        from sia_runner.config import check
        from sia_runner.ground.lease import HEARTBEAT, Held
        from sia_runner.run.runner import RESUMABLE, resume, start

        folder = self.sweep / self.name
        if not RunDir(folder).config.is_file():
            return start(check(self.plain), folder, self.overrides)
        resumable = [override for override in self.overrides if override.startswith(RESUMABLE)]
        give_up = time.monotonic() + PATIENCE
        while True:
            try:
                return resume(folder, resumable)
            except Held as error:
                if time.monotonic() > give_up:
                    raise
                print(f"waiting: {error}", file=sys.stderr, flush=True)
                time.sleep(HEARTBEAT)
