"""The workbench of a proposer: sandboxed trials on dev questions and model calls, never paid twice."""

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sia_runner.agents.protocol import Files, Hosted, ProposerError, Rewards
from sia_runner.candidate.execute import Purpose, environment_fault, execute
from sia_runner.candidate.harness import FaultyHarness, write_harness
from sia_runner.candidate.verdicts import taught_val, verified
from sia_runner.config import Experiment
from sia_runner.ground.plaintext import plain
from sia_runner.models.protocol import Grant
from sia_runner.propose.dialogue import Dialogue
from sia_runner.propose.hosting import host
from sia_runner.records import INFRASTRUCTURE, Outcome, Reply, Trial, count_kinds
from sia_runner.rooms import models, rooms
from sia_runner.rundir import RunDir, Site, read_json, remove, tree_sha256, write_json
from sia_runner.weights.prospects import prospects

_EXAMPLES = 8  # dev failures shown of one trial
_OUTPUT = 4 * 1024  # bytes shown of what it printed


class Bench:
    """The workbench of one proposal, whose folder is `folder`; harnesses run on the weights of `parent`.

    Trials are stored under trials/<content>/, so that a resumed or later proposal does not pay for them again.
    """

    def __init__(self, config: Experiment, run: RunDir, n: int, folder: Path, parent: int | None) -> None:
        self._config, self._run, self._n, self._folder, self._parent = config, run, n, folder, parent
        self._adapter = run.adapter_of(parent)
        self._dialogue = Dialogue(folder / "dialogue.jsonl")

    def try_out(self, batch: Sequence[Files], *, share: float, questions: int | None = None) -> list[Trial]:
        """Run each harness on dev questions; see Workbench.try_out."""
        effort = self._effort(share, questions)
        return rooms(self._config).compute.map(lambda files: self._trial(files, *effort), batch)

    def chat(
        self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]] = (), **settings: Any
    ) -> Reply:
        """Call the proposer's model, or return the recorded reply."""
        gateway = models(self._config, self._run)
        if gateway is None:
            raise ProposerError(f"meta_agent={self._config.meta_agent.name} calls a model; give it a key `provider`")
        grant, request = self._grant(), {"messages": list(messages), "tools": list(tools), **settings}
        return self._dialogue.answer(request, lambda: gateway.chat(grant, messages, tools, **settings))

    def measure(self, files: Files) -> Rewards:
        """Measure the rewards of a few rollouts of a harness."""
        if self._parent is None or self._config.trainer.kind == "none":
            raise ProposerError("rewards are measured where the weights lever may be pulled: see Brief.weights")
        prospect = prospects(self._config, self._run, self._n, self._parent, files)
        return Rewards(
            shape=prospect.probe.shape.as_json(),
            suggested=prospect.suggested,
            why=prospect.why,
            refused=prospect.refused,
            minutes={algorithm: cost["minutes"] for algorithm, cost in prospect.cost.items()},
        )

    def host(self, program: Files, entry: str, *, inputs: Path, harness: Files, calls: int, seconds: float) -> Hosted:
        """Run another package's agent in the sandbox."""
        grant = self._grant(calls)
        return host(self._config, self._run, grant, self._folder / "guest", program, entry, inputs, harness, seconds)

    def _effort(self, share: float, questions: int | None) -> tuple[float, int | None]:
        """Return the share of train and the number of dev questions (None: all) for `share` of the full cost."""
        task = rooms(self._config).task
        if self._config.calls_model and share < 1:
            dev = len(task.splits()["dev"])
            return 1.0, max(1, math.ceil(share * min(dev, questions or dev)))
        if not any(fold.train for fold in task.rounds("trial")):  # without training data the share makes no difference
            return 1.0, questions
        return share, questions

    def _grant(self, calls: int | None = None) -> Grant:
        return Grant("meta", self._n, f"gen_{self._n}", "propose", self._folder / "proposer.jsonl", calls=calls)

    def _trial(self, files: Files, train_fraction: float, questions: int | None) -> Trial:
        weights = tree_sha256(self._adapter) if self._adapter else None
        content = json.dumps([dict(files), train_fraction, questions, weights], sort_keys=True)
        name = hashlib.sha256(content.encode(errors="backslashreplace")).hexdigest()[:16]
        site = Site(self._run.trials / name)
        record = site.path / "trial.json"
        with _alone(site.path):  # parallel proposals may have the same idea
            if record.is_file():
                stored = read_json(record)
                return Trial(**{**stored, "examples": tuple(stored["examples"])})
            trial, fair = self._run_trial(files, site, name, train_fraction, questions)
            if fair:
                write_json(record, asdict(trial))
        return trial

    def _run_trial(
        self, files: Files, site: Site, name: str, train_fraction: float, questions: int | None
    ) -> tuple[Trial, bool]:
        """Return the trial, and whether it says something about the harness."""
        task = rooms(self._config).task
        rounds = task.rounds("trial", train_fraction=train_fraction, questions=questions)
        if not rounds:
            return Trial(0.0, 0, 0.0, f"task {task.name} has no dev questions to try a harness on"), True
        (fold,) = rounds
        harness = site.path / "harness"
        site.path.mkdir(parents=True, exist_ok=True)
        try:
            write_harness(files, harness, task.entry)
        except FaultyHarness as refused:
            return Trial(0.0, len(fold.questions), 0.0, str(refused)), True
        fault = environment_fault(self._config, harness)
        if fault:
            return Trial(0.0, len(fold.questions), 0.0, fault), True
        purpose = Purpose(self._run, self._n, f"trial_{name}", "trial", adapter=self._adapter)
        seed = f"{self._config.seed}:trial"
        execution = execute(self._config, purpose, fold, site, harness, seed, self._config.task.limits.run)
        outcomes = verified(self._config, site, execution.unanswered)
        output = "" if taught_val(task) else _tail(site.log)
        for part in (site.work, site.submission, site.keys, site.trajectories, site.faults):
            remove(part)
        unfair = [outcome for outcome in outcomes if outcome.kind in INFRASTRUCTURE]
        return Trial(
            value=task.score(outcomes).value,
            n=len(outcomes),
            seconds=round(execution.ended.seconds, 2),
            failure=execution.failure or _unfair(unfair, len(outcomes)),
            outcomes=count_kinds(outcomes),
            examples=tuple(task.failures(outcomes, _EXAMPLES)),
            output=output,
        ), not unfair


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Hold a lock on `folder` over threads, processes and nodes."""
    from filelock import FileLock

    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_suffix(".lock")):
        yield


def _tail(log: Path) -> str:
    return plain(log.read_bytes()[-_OUTPUT:].decode("utf-8", "replace")) if log.is_file() else ""


def _unfair(unfair: Sequence[Outcome], n: int) -> str:
    return f"{len(unfair)} of {n} {unfair[0].kind}: {unfair[0].prediction}" if unfair else ""
