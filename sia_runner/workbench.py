"""Where a proposer tries things before it proposes: sandboxed, dev questions only, never twice the same."""

import hashlib
import json
from collections.abc import Mapping, Sequence

from sia_runner.config import Experiment
from sia_runner.execute import environment_fault, execute
from sia_runner.harness import FaultyHarness, write_harness
from sia_runner.records import Trial
from sia_runner.rooms import rooms
from sia_runner.rundir import RunDir, Site, read_json, remove, write_json

Files = Mapping[str, str]


class Bench:
    """Trials are kept under trials/<content>/, so that a resumed or later proposal does not pay for them again."""

    def __init__(self, config: Experiment, run: RunDir) -> None:
        self._config, self._run = config, run

    def try_out(self, batch: Sequence[Files], *, train_fraction: float, questions: int | None = None) -> list[Trial]:
        return rooms(self._config).compute.map(lambda files: self._trial(files, train_fraction, questions), batch)

    def _trial(self, files: Files, train_fraction: float, questions: int | None) -> Trial:
        content = json.dumps([dict(files), train_fraction, questions], sort_keys=True)
        site = Site(self._run.trials / hashlib.sha256(content.encode(errors="backslashreplace")).hexdigest()[:16])
        kept = site.path / "trial.json"
        if kept.is_file():
            return Trial(**read_json(kept))
        trial = self._run_trial(files, site, train_fraction, questions)
        write_json(kept, {"value": trial.value, "n": trial.n, "seconds": trial.seconds, "failure": trial.failure})
        return trial

    def _run_trial(self, files: Files, site: Site, train_fraction: float, questions: int | None) -> Trial:
        task = rooms(self._config).task
        (round_,) = task.rounds("trial", train_fraction=train_fraction, questions=questions)
        harness = site.path / "harness"
        site.path.mkdir(parents=True, exist_ok=True)
        try:
            write_harness(files, harness, task.entry)
        except FaultyHarness as refused:
            return Trial(0.0, len(round_.questions), 0.0, str(refused))
        fault = environment_fault(self._config, harness)
        if fault:
            return Trial(0.0, len(round_.questions), 0.0, fault)
        seconds = self._config.task.limits.run
        execution = execute(self._config, round_, site, harness, f"{self._config.seed}:trial", seconds)
        outcomes = task.verify(site.submission, read_json(site.keys), execution.unanswered)
        for part in (site.work, site.submission, site.keys):
            remove(part)
        value = task.score(outcomes).value
        return Trial(value, len(outcomes), round(execution.ended.seconds, 2), execution.failure)
