"""gen_<n>/evidence: all that a proposer may read. Gold answers of dev only; of val, only aggregates."""

import json
import shutil
from collections.abc import Sequence
from typing import Any

from sia_runner import stages
from sia_runner.config import Experiment
from sia_runner.records import Past, count_kinds
from sia_runner.rooms import rooms
from sia_runner.rundir import RunDir, remove, write_json, write_text

TAIL_BYTES = 16 * 1024


def write(config: Experiment, run: RunDir, n: int, history: Sequence[Past], incumbent: int | None) -> None:
    """Lay out the evidence for generation `n`, replaced whole."""
    folder, task = run.generation(n).evidence, rooms(config).task
    remove(folder)
    folder.mkdir(parents=True)
    write_text(folder / "task.md", task.description)
    summary: dict[str, Any] = {
        "task": task.name,
        "metric": {"name": task.metric, "higher_is_better": task.higher_is_better},
        "incumbent": None,
        "history": [_past(past) for past in history],
    }
    if incumbent is not None:
        summary["incumbent"] = _incumbent(config, run, n, incumbent, history)
    write_json(folder / "summary.json", summary)


def _incumbent(config: Experiment, run: RunDir, n: int, incumbent: int, history: Sequence[Past]) -> dict[str, Any]:
    folder, task, there = run.generation(n).evidence, rooms(config).task, run.generation(incumbent)
    dev = stages.of_split(config, stages.read_scores(run, incumbent), "dev")
    failures = task.failures(dev, config.evidence.failures)
    lines = "".join(json.dumps(failure, ensure_ascii=False) + "\n" for failure in failures)
    write_text(folder / "failures.jsonl", lines)
    shutil.copytree(there.harness, folder / "harness", symlinks=True)
    log = there.sites(len(task.rounds("select")))[0].log
    if log.is_file():
        write_text(folder / "stdout_tail.txt", log.read_bytes()[-TAIL_BYTES:].decode("utf-8", "replace"))
    val = next(past.val for past in history if past.n == incumbent)
    dev_score = task.score(dev).as_json() if dev else None
    return {
        "generation": incumbent,
        "val": val.as_json() if val else None,
        "dev": dev_score,
        "outcomes": count_kinds(dev),
    }


def _past(past: Past) -> dict[str, Any]:
    return {
        "generation": past.n,
        "lever": past.lever.value,
        "title": past.title,
        "status": past.status,
        "reason": past.reason,
        "val": past.val.as_json() if past.val else None,
    }
