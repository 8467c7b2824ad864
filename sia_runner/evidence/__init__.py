"""Writes gen_<n>/evidence, the files that a proposer may read: dev with gold answers, val only as aggregates.

docs/evidence.md explains each file.
"""

import shutil
from collections.abc import Sequence
from pathlib import Path

from sia_runner.config import Experiment
from sia_runner.evidence import budget, confusion, failures, overview, past, reward, trajectories, updates
from sia_runner.evidence.candidate import Candidate
from sia_runner.ground.plaintext import plain
from sia_runner.records import Past
from sia_runner.rooms import rooms
from sia_runner.rundir import RunDir, remove, write_json, write_text

_TAIL = 16 * 1024  # bytes of what the parent printed


def write_evidence(
    config: Experiment,
    run: RunDir,
    n: int,
    history: Sequence[Past],
    incumbent: int | None,
    parent: int | None = None,
    folder: Path | None = None,
    *,
    left_alone: str = "",
) -> None:
    """Write the evidence of generation `n` to `folder` (None: the generation's own), replacing it.

    The evidence is about `parent`, the candidate to be extended (None: the incumbent). Without a scored candidate it
    holds the task and the history. `left_alone` says why the weights are not trained although they are due. The same
    run directory always gives the same files.
    """
    folder, task = folder or run.generation(n).evidence, rooms(config).task
    remove(folder)
    folder.mkdir(parents=True)
    candidates = {k: Candidate.of(config, run, k, history) for k in {parent, incumbent} if k}
    subject = candidates.get(parent or incumbent or 0)
    summary = {
        "task": task.name,
        "metric": {"name": task.metric, "higher_is_better": task.higher_is_better},
        "incumbent": candidates[incumbent].as_json() if incumbent else None,
        "parent": subject.as_json() if subject else None,
        "history": past.as_json(history),
        "reward": reward.statistics([outcome.value for outcome in subject.dev]) if subject else None,
        "confusions": confusion.pairs(subject.failures) if subject else [],
        "weights": updates.lever(config, run, n, history, left_alone),
        "budget_left": budget.left(config, run, len(history) + 1),  # generations in progress have not settled theirs
    }
    write_text(folder / "task.md", task.description)
    write_json(folder / "summary.json", summary)
    past.write(run, task, history, folder / "history")
    if subject:
        _about(config, run, subject, folder)
    write_text(folder / "overview.md", overview.render(n, summary, folder))


def _about(config: Experiment, run: RunDir, subject: Candidate, folder: Path) -> None:
    """Write the evidence about the candidate to be extended."""
    limit = config.evidence.kb * 1024
    selection = failures.chosen(subject, config.evidence.failures, limit // 2 if subject.calls else limit)
    trajectory_numbers = trajectories.write(
        subject, selection, folder / "trajectories", limit - failures.size(selection)
    )
    failures.write(selection, trajectory_numbers, folder / "failures.jsonl")
    write_text(folder / "confusion.md", confusion.render(subject))
    shutil.copytree(run.generation(subject.n).harness, folder / "harness", symlinks=True)
    if subject.log.is_file() and not subject.taught_val:
        tail = subject.log.read_bytes()[-_TAIL:].decode("utf-8", "replace")
        write_text(folder / "stdout_tail.txt", plain(tail))
