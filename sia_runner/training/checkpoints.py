"""The checkpoints of a training, and its state between them: a kill at any moment repeats steps, and skips none."""

import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sia_runner.records import Json
from sia_runner.text import first_line
from sia_runner.training.batch import Processes
from sia_runner.training.drift import adapter_is_served
from sia_runner.training.progress import TrainingProgress
from sia_runner.training.protocol import TrainingJob
from sia_runner.wire.learning import Learner, RowNumbers, TrainingRow
from sia_runner.wire.policy import WeightsSource

_LAYOUT = 2  # of the files; 1 was one step-*.pt for each checkpoint
_FILE = "checkpoint.json"
_TAG = re.compile(r"step-(\d+)-(\d+)")  # steps done, and the number of the save


def training_key(job: TrainingJob, parent: str | None) -> str:
    """Return a hash of algorithm, base, start, questions and seed; only checkpoints with the same key are resumed."""
    algorithm = job.algorithm.model_dump(exclude={"shards"})  # which change where weights are, not what is done
    parts = [_LAYOUT, algorithm, job.policy.base_sha256, parent, list(job.units), job.seed]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


class CheckpointStore:
    """The checkpoints of one training in a folder; those with another `key` are never resumed.

    Each is a folder of the tag's name, in which a learner may have its own files first; `checkpoint.json` comes last
    and makes it valid. Random states are not needed: each step draws from (seed, step).
    """

    def __init__(self, folder: Path, key: str) -> None:
        self._folder, self._key = folder, key
        self._saves = max((int(match[2]) for match, _ in self._tagged()), default=0)

    def next_tag(self, step: int) -> str:
        """Return the name of the next checkpoint, which no other had, not even one that was cut while it was saved."""
        self._saves += 1
        return f"step-{step:06d}-{self._saves}"

    def write(self, tag: str, content: Mapping[str, Any]) -> None:
        """Complete the checkpoint `tag`, for which the learner has saved its part already."""
        folder = self._folder / tag
        folder.mkdir(parents=True, exist_ok=True)
        partial = folder / f".{_FILE}"
        with partial.open("w", encoding="utf-8") as file:
            json.dump({"key": self._key, **content}, file)
            file.flush()
            os.fsync(file.fileno())
        partial.rename(folder / _FILE)
        _sync_folder(folder)
        _sync_folder(self._folder)

    def latest(self, step: int | None = None) -> tuple[int, Json] | None:
        """Return the newest state of this training, after at most `step` steps: (steps done, content), or None."""
        complete = [(done, folder) for done, folder in self._complete() if step is None or done <= step]
        return (complete[-1][0], _content(complete[-1][1])) if complete else None

    def prune(self, step: int, forget: Callable[[Json], None] = lambda state: None) -> None:
        """Delete checkpoints older than the newest one of at most `step` steps, and those that were never complete.

        `forget` is given the learner's state of each before it goes, so that a kill in between repeats it.
        """
        complete = list(self._complete())
        old = [folder for done, folder in complete if done <= step][:-1]
        keep = {folder for _, folder in complete if folder not in old}
        for _, folder in self._tagged():
            if folder not in keep:
                if (folder / _FILE).is_file():
                    forget(_content(folder)["state"])
                (folder / _FILE).unlink(missing_ok=True)  # first: what is half deleted is no checkpoint
                shutil.rmtree(folder, ignore_errors=True)

    def steps(self) -> list[int]:
        """Return the steps that have a checkpoint, in order."""
        return [done for done, _ in self._complete()]

    def has_earlier_layout(self) -> bool:
        """Return True if an earlier version left checkpoints here, which this one does not read."""
        return any(self._folder.glob("step-*.pt"))

    def _complete(self) -> Iterator[tuple[int, Path]]:
        """Yield (steps done, folder) of this training's checkpoints, in the order in which they were saved."""
        for match, folder in self._tagged():
            if (folder / _FILE).is_file() and _content(folder)["key"] == self._key:
                yield int(match[1]), folder

    def _tagged(self) -> list[tuple[re.Match[str], Path]]:
        folders = list(self._folder.iterdir()) if self._folder.is_dir() else []
        tagged = [(match, folder) for folder in folders if (match := _TAG.fullmatch(folder.name))]
        return sorted(tagged, key=lambda one: (int(one[0][1]), int(one[0][2])))


def _content(folder: Path) -> Json:
    return json.loads((folder / _FILE).read_text(encoding="utf-8"))


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class TrainingState:
    """A training under way: the learner and the progress belong together, here and in every checkpoint."""

    def __init__(self, job: TrainingJob, learner: Learner, checkpoints: CheckpointStore) -> None:
        self.job, self.learner, self.processes = job, learner, Processes.current()
        self.progress = TrainingProgress()
        self._checkpoints = checkpoints
        self._proven = job.policy.sampler is None  # that what samples the rollouts applies the adapter
        self._began = time.monotonic()  # less the seconds before a kill
        self._complained = False  # that an old state cannot be deleted

    def resume(self) -> Json | None:
        """Restore the newest checkpoint and return its content; None: the training starts."""
        saved = self._checkpoints.latest()
        # A process that reads later would start from what the first has written by then.
        self.processes.wait()
        if saved is None:
            if self._checkpoints.has_earlier_layout():
                self.say("checkpoints of an earlier version: the update starts anew")
            return None
        step, content = saved
        self.progress = TrainingProgress.from_json(content["progress"])
        self._began -= self.progress.seconds
        self.learner.load(content["state"])
        self.say(f"resumed after step {step}")
        return content

    def save(self, trusted: int | None = None, **content: Any) -> None:
        """Save learner and progress; delete what is older than the newest checkpoint of at most `trusted` steps."""
        self.measure_time()
        step = self.progress.steps
        tag = self._checkpoints.next_tag(step)
        state = self.learner.save(tag)
        if self.processes.first:
            self._checkpoints.write(tag, {"progress": asdict(self.progress), "state": state, **content})
            self._checkpoints.prune(step if trusted is None else trusted, self._forget)
            self.job.checkpointed(step, state)
        self.processes.wait()

    def _forget(self, state: Json) -> None:
        """Have the learner delete an old state. A failure is said once: a state too many stops no training."""
        try:
            self.learner.forget(state)
        except Exception as error:  # noqa: BLE001 - whatever a learner's service does
            if not self._complained:
                self.say(f"an old checkpoint is not deleted: {first_line(error)}")
            self._complained = True

    def go_back(self, step: int) -> int | None:
        """Restore the learner's newest checkpoint of at most `step` steps; return its steps, or None without one."""
        saved = self._checkpoints.latest(step)
        if saved is None:
            return None
        self.learner.load(saved[1]["state"])
        return saved[0]

    def prove_adapter(self, rows: Sequence[TrainingRow]) -> None:
        """Check on recorded rows that the published adapter is served, until it is proven once.

        Raises PolicyError if it is not. Steps are too small to tell at first where a server's numbers are noisy.
        """
        sampler, algorithm = self.job.policy.sampler, self.job.algorithm
        if self._proven or not rows or sampler is None:
            return
        temperature = algorithm.temperature if algorithm.kind == "online" else 1.0

        def score(some: Sequence[TrainingRow], weights: WeightsSource) -> RowNumbers:
            return self.processes.from_first(lambda: sampler.score(some, weights))

        self._proven = adapter_is_served(score, self.learner, rows, temperature)
        if self._proven:
            self.say("the server applies the adapter: its logprobs follow the learner's, not the base's")
        elif self.progress.steps >= algorithm.steps:
            self.say("the adapter's effect is too small to tell whether the server applies it")

    def measure_time(self) -> None:
        """Bring the seconds of the progress up to date."""
        self.progress.seconds = time.monotonic() - self._began

    def say(self, line: str) -> None:
        """Say a line of progress, in the first process."""
        if self.processes.first:
            self.job.say(line)

    def record(self, rollouts: int) -> None:
        """Record the newest figures, in the first process; `rollouts`: trajectories that are new with them."""
        self.measure_time()
        if self.processes.first:
            self.job.record(self.progress.figures(rollouts))
