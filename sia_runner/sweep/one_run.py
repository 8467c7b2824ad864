"""One run of a sweep, where it is carried out: in this process, or in a job on another node. Picklable, and safe to be
done again: it starts the run or, where one was cut, goes on with it."""

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

CRASHED = 1  # exit code of a run that a fault of ours ended
PATIENCE = 120.0  # seconds that a job waits for a run whose last job died elsewhere: its lease is stale after 60


@dataclass(frozen=True, slots=True)
class SweepRun:
    """`plain`: the composed configuration, unchecked; `overrides`: those of the command line, in order."""

    sweep: Path
    name: str
    plain: dict[str, Any]
    overrides: tuple[str, ...]
    environment: Mapping[str, str | None] = field(default_factory=dict)  # variables that the way to a job changed

    def __call__(self) -> int:
        """The run's exit code, which is also kept in the sweep's folder."""
        from sia_runner.compose.refusals import refusals

        for key, value in self.environment.items():
            os.environ.pop(key, None) if value is None else os.environ.update({key: value})
        try:
            with refusals(self.plain) as outcome:
                outcome.code = self._go_on()
            code, said = outcome.code, outcome.lines
        except Exception as error:  # noqa: BLE001 - whatever it was, it is this run's and nobody else's
            traceback.print_exc()
            code, said = CRASHED, [f"{type(error).__name__}: {error}".splitlines()[0]]
        folder = self.sweep / self.name
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()  # Hydra made it before anybody looked; nothing was started
        SweepDir(self.sweep).end(self.name, code, said)
        return code

    def checkpoint(self) -> Any:
        """For submitit: a job that is preempted or out of time is queued again as it is."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)

    def _go_on(self) -> int:
        from sia_runner.config import check
        from sia_runner.ground.lease import HEARTBEAT, Held
        from sia_runner.run.runner import RESUMABLE, resume, start

        folder = self.sweep / self.name
        if not RunDir(folder).config.is_file():
            return start(check(self.plain), folder, self.overrides)
        given = [override for override in self.overrides if override.startswith(RESUMABLE)]
        give_up = time.monotonic() + PATIENCE
        while True:
            try:
                return resume(folder, given)
            except Held as held:
                if time.monotonic() > give_up:
                    raise
                print(f"waiting: {held}", file=sys.stderr, flush=True)
                time.sleep(HEARTBEAT)
