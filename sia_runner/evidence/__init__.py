"""gen_<n>/evidence: all that a proposer may read. Gold answers of dev only; of val, only aggregates.

What each file holds, and why: docs/evidence.md.
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


def write(
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
    """Lay out `folder` (None: the generation's own), replaced whole; the same again from the same run directory.

    It is about `parent`, the candidate to be extended (None: the incumbent). Without a scored candidate it holds the
    task and what was tried. `left_alone`: why the weights are not trained although they are due.
    """
    folder, task = folder or run.generation(n).evidence, rooms(config).task
    remove(folder)
    folder.mkdir(parents=True)
    told = {k: Candidate.of(config, run, k, history) for k in {parent, incumbent} if k}
    about = told.get(parent or incumbent or 0)
    summary = {
        "task": task.name,
        "metric": {"name": task.metric, "higher_is_better": task.higher_is_better},
        "incumbent": told[incumbent].as_json() if incumbent else None,
        "parent": about.as_json() if about else None,
        "history": past.as_json(history),
        "reward": reward.statistics([outcome.value for outcome in about.dev]) if about else None,
        "confusions": confusion.pairs(about.failures) if about else [],
        "weights": updates.lever(config, run, n, history, left_alone),
        "budget_left": budget.left(config, run, len(history) + 1),  # what those under way spend is not settled
    }
    write_text(folder / "task.md", task.description)
    write_json(folder / "summary.json", summary)
    past.write(run, task, history, folder / "history")
    if about:
        _about(config, run, about, folder)
    write_text(folder / "overview.md", overview.render(n, summary, folder))


def _about(config: Experiment, run: RunDir, about: Candidate, folder: Path) -> None:
    """What is known of the candidate to be extended."""
    most = config.evidence.kb * 1024
    chosen = failures.chosen(about, config.evidence.failures, most // 2 if about.calls else most)
    shown = trajectories.write(about, chosen, folder / "trajectories", most - failures.size(chosen))
    failures.write(chosen, shown, folder / "failures.jsonl")
    write_text(folder / "confusion.md", confusion.render(about))
    shutil.copytree(run.generation(about.n).harness, folder / "harness", symlinks=True)
    if about.log.is_file() and not about.taught_val:
        tail = about.log.read_bytes()[-_TAIL:].decode("utf-8", "replace")
        write_text(folder / "stdout_tail.txt", plain(tail))
