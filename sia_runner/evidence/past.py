"""Writes history/gen_<k>.md: what each earlier candidate changed, why, and its verdict."""

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sia_runner.candidate.harness import read_harness
from sia_runner.candidate.verdicts import taught_val
from sia_runner.ground.plaintext import cut, fenced, one_line, plain
from sia_runner.propose.search import lineage
from sia_runner.records import Past, Score
from sia_runner.rundir import Generation, RunDir, read_json, write_text
from sia_runner.tasks.protocol import Task

_NEWEST = 50  # generations that have a file
_RATIONALE = 8 * 1024  # bytes
_DIFF = 32 * 1024
_PRINTED = 4 * 1024
_SMALLEST = 128
_LINES = 2000  # of one file; comparing more takes seconds at worst


def as_json(history: Sequence[Past]) -> list[dict[str, Any]]:
    """Return the history as summary.json holds it."""
    parents = lineage(history)
    return [
        {
            "generation": past.n,
            "parent": parents[past.n],
            "lever": past.lever.value,
            "title": past.title,
            "status": past.status,
            "reason": past.reason,
            "val": past.val.as_json() if past.val else None,
        }
        for past in history
    ]


def write(run: RunDir, task: Task, history: Sequence[Past], folder: Path) -> None:
    """Write one file for each of the newest candidates."""
    parents = lineage(history)
    folder.mkdir()
    for past in history[-_NEWEST:]:
        printed = "" if past.val else _printed(run, task, past.n)
        write_text(folder / f"gen_{past.n}.md", _render(run, past, parents[past.n], printed))


def score_text(score: Score | None) -> str:
    """Format a score as ``0.781 [0.753, 0.806] (n=913)``."""
    if score is None:
        return "not scored"
    return f"{score.value:.4g} [{score.ci95[0]:.4g}, {score.ci95[1]:.4g}] (n={score.n})"


def _render(run: RunDir, past: Past, parent: int | None, printed: str) -> str:
    generation = run.generation(past.n)
    proposal = read_json(generation.proposal) if generation.proposal.is_file() else {}
    against = f"generation {parent}" if parent else "nothing: it was the first harness"
    lines = [
        f"# Generation {past.n}: {one_line(past.title)}",
        "",
        f"- {past.status}: {one_line(past.reason, 500)}",
        f"- val: {score_text(past.val)}",
        f"- lever: {past.lever.value}",
        f"- extended {against}",
        "",
        *_section("Rationale", cut(str(proposal.get("rationale", "")), _RATIONALE)),
        *_section(f"Changes against {against}", _changes(generation, run.generation(parent) if parent else None)),
        *(_section("What it printed last", printed) if printed else []),
    ]
    return "\n".join(lines)


def _section(title: str, text: str) -> list[str]:
    return [f"## {title}", "", fenced(plain(text)), ""]


def _changes(generation: Generation, parent: Generation | None) -> str:
    if not generation.harness.is_dir():
        return "(no harness was built)"
    return diff(read_harness(parent.harness) if parent else {}, read_harness(generation.harness), _DIFF)


def _printed(run: RunDir, task: Task, n: int) -> str:
    """Return the end of the output of a candidate without a score, which often tells why it failed."""
    rounds, generation = task.rounds("select"), run.generation(n)
    logs = [site.log for site in [*generation.sites(len(rounds)), generation.gate] if site.log.is_file()]
    if not logs or taught_val(task):
        return ""
    return logs[0].read_bytes()[-_PRINTED:].decode("utf-8", "replace")


def diff(before: Mapping[str, str], after: Mapping[str, str], limit: int) -> str:
    """Return a unified diff, file by file in the order of names, of about `limit` bytes.

    Files beyond the limit are not compared.
    """
    changed = [name for name in sorted({*before, *after}) if before.get(name) != after.get(name)]
    parts: list[str] = []
    remaining = limit
    for name in changed:
        if remaining < _SMALLEST:
            break
        parts.append(cut(_file_diff(name, before.get(name), after.get(name)), remaining))
        remaining -= len(parts[-1].encode())
    unseen = changed[len(parts) :]
    if unseen:
        parts.append(f"({len(unseen)} more files changed: {', '.join(unseen[:20])})")
    return "\n".join(parts) or "no file changed"


def _file_diff(name: str, old: str | None, new: str | None) -> str:
    before, after = (old or "").splitlines(), (new or "").splitlines()
    if max(len(before), len(after)) > _LINES:
        return f"--- {name}\n+++ {name}\n(too long to compare: {len(before)} lines became {len(after)})"
    old_name, new_name = (
        f"a/{name}" if old is not None else "/dev/null",
        f"b/{name}" if new is not None else "/dev/null",
    )
    return "\n".join(difflib.unified_diff(before, after, old_name, new_name, lineterm=""))
