"""Summaries of earlier candidates and weights updates, for history/gen_<k>.md and overview.md."""

import difflib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from sia_runner.config.experiment import Experiment
from sia_runner.config.training import allowed_algorithms
from sia_runner.experiment.execution import harness_saw_val_labels
from sia_runner.experiment.harness_files import read_harness
from sia_runner.records import Json, Outcome, PastGeneration, Status, count_kinds
from sia_runner.selection.parents import better_groups, parents_by_generation, plateau_length
from sia_runner.store.files import read_tail
from sia_runner.store.journal import JournalReader, finished_generations
from sia_runner.store.run_directory import RunDir, read_json, write_text
from sia_runner.tasks.protocol import Task
from sia_runner.text import fenced_block, one_line, strip_control_characters, table_cell, truncate_bytes

_NEWEST_CANDIDATES = 50  # generations that have a file
_RATIONALE_BYTES = 8 * 1024  # bytes
_DIFF_BYTES = 32 * 1024
_OUTPUT_BYTES = 4 * 1024
_SMALLEST_DIFF_BYTES = 128
_MAX_LINES = 2000  # of one file; comparing more takes seconds at worst
_CURVE_POINTS = 12  # of a curve
_NEWEST_UPDATES = 10  # updates in the table
MOST_LESSONS = 30
_NAMED_GENERATIONS, _LESSON_TITLE, _LESSON_FATE = 8, 120, 160  # of one lesson: generations, characters


def history_json(history: Sequence[PastGeneration]) -> list[Json]:
    """Return the history as summary.json holds it."""
    parents = parents_by_generation(history)
    return [
        {
            "generation": past.n,
            "parent": parents[past.n],
            **({"partner": past.partner} if past.partner else {}),
            "lever": past.lever.value,
            "title": past.title,
            "status": past.status,
            "reason": past.reason,
            "val": past.val and past.val.to_json(),
        }
        for past in history
    ]


def write_history(run: RunDir, task: Task, history: Sequence[PastGeneration], folder: Path) -> None:
    """Write one file for each of the newest candidates."""
    parents = parents_by_generation(history)
    folder.mkdir()
    for past in history[-_NEWEST_CANDIDATES:]:
        printed = "" if past.val else _output_tail(run, task, past.n)
        write_text(folder / f"gen_{past.n}.md", _render_candidate(run, past, parents[past.n], printed), durable=False)


def score_text(score: Mapping[str, Any] | None) -> str:
    """Format the JSON of a score as ``0.7811 [0.753, 0.8062] (n=913)``."""
    if not score:
        return "not scored"
    low, high = score["ci95"]
    return f"{score['value']:.4g} [{low:.4g}, {high:.4g}] (n={score['n']})"


def _render_candidate(run: RunDir, past: PastGeneration, parent: int | None, printed: str) -> str:
    generation, changes = run.generation(past.n), "(no harness was built)"
    proposal: Json = read_json(generation.proposal) if generation.proposal.is_file() else {}
    against = f"generation {parent}" if parent else "nothing: it was the first harness"
    merges = [f"- merged with generation {past.partner}"] if past.partner else []
    if generation.harness.is_dir():
        before = read_harness(run.generation(parent).harness) if parent else {}
        changes = harness_diff(before, read_harness(generation.harness), _DIFF_BYTES)
    lines = [
        f"# Generation {past.n}: {one_line(past.title)}",
        "",
        f"- {past.status}: {one_line(past.reason, 500)}",
        f"- val: {score_text(past.val and past.val.to_json())}",
        f"- lever: {past.lever.value}",
        f"- extended {against}",
        *merges,
        "",
        *_section("Rationale", truncate_bytes(str(proposal.get("rationale", "")), _RATIONALE_BYTES)),
        *_section(f"Changes against {against}", changes),
        *(_section("What it printed last", printed) if printed else []),
    ]
    return "\n".join(lines)


@dataclass(frozen=True, slots=True)
class Lesson:
    """A change that was tried and did not help, once or several times under the same title."""

    title: str  # a proposer wrote it: data, never an instruction
    generations: tuple[int, ...]
    fate: str  # of the newest one
    better: int = 0  # dev questions on which the newest one differed from the candidate that it extended
    worse: int = 0
    kinds: Mapping[str, int] = field(default_factory=dict[str, int])  # how the questions ended that it did worse

    def __str__(self) -> str:
        """Return the lesson as a line of Markdown."""
        many = "generations" if len(self.generations) > 1 else "generation"
        where = f"{many} {', '.join(map(str, self.generations[-_NAMED_GENERATIONS:]))}"
        line = f"- {where}, {table_cell(self.title, _LESSON_TITLE)}: {one_line(self.fate, _LESSON_FATE)}"
        if self.better or self.worse:
            kinds = ", ".join(f"{count} {kind}" for kind, count in self.kinds.items())
            line += f"; on dev better on {self.better} questions, worse on {self.worse}{f' ({kinds})' if kinds else ''}"
        return line


def distil_lessons(
    history: Sequence[PastGeneration], dev: Callable[[int], Sequence[Outcome]], higher_is_better: bool
) -> list[Lesson]:
    """Return what failed and why: what was tried most often first, then the newest; at most `MOST_LESSONS`.

    `dev` returns the outcomes of a scored candidate. A candidate without a fair chance teaches nothing.
    """
    parents, by_title = parents_by_generation(history), dict[str, list[PastGeneration]]()
    scored = {past.n for past in history if past.val is not None}
    for past in history:
        if past.status in (Status.REJECTED, Status.FAILED):
            by_title.setdefault(" ".join(past.title.casefold().split()), []).append(past)
    groups = sorted(by_title.values(), key=lambda pasts: (-len(pasts), -pasts[-1].n))[:MOST_LESSONS]
    lessons: list[Lesson] = []
    for pasts in groups:
        newest, numbers = pasts[-1], tuple(past.n for past in pasts)
        lesson = Lesson(newest.title, numbers, f"{newest.status}: {newest.reason}")
        parent = parents[newest.n]
        if parent is not None and {newest.n, parent} <= scored:
            outcomes = {outcome.unit: outcome for outcome in dev(newest.n)}
            new = {unit: outcome.value for unit, outcome in outcomes.items()}
            old = {outcome.unit: outcome.value for outcome in dev(parent)}
            better, worse = better_groups(new, old, higher_is_better), better_groups(old, new, higher_is_better)
            kinds = count_kinds(outcomes[unit] for unit in worse)
            lesson = replace(lesson, better=len(better), worse=len(worse), kinds=kinds)
        lessons.append(lesson)
    return lessons


def _section(title: str, text: str) -> list[str]:
    return [f"## {title}", "", fenced_block(strip_control_characters(text)), ""]


def _output_tail(run: RunDir, task: Task, n: int) -> str:
    generation, folds = run.generation(n), len(task.rounds("select"))
    logs = [site.log for site in [*generation.harness_runs(folds), generation.gate] if site.log.is_file()]
    return read_tail(logs[0], _OUTPUT_BYTES) if logs and not harness_saw_val_labels(task) else ""


def harness_diff(before: Mapping[str, str], after: Mapping[str, str], limit: int) -> str:
    """Return a unified diff, in the order of names; files beyond about `limit` bytes are not compared."""
    changed = [name for name in sorted({*before, *after}) if before.get(name) != after.get(name)]
    parts, remaining = list[str](), limit
    for name in changed:
        if remaining < _SMALLEST_DIFF_BYTES:
            break
        parts.append(truncate_bytes(_file_diff(name, before.get(name), after.get(name)), remaining))
        remaining -= len(parts[-1].encode())
    if unseen := changed[len(parts) :]:
        parts.append(f"({len(unseen)} more files changed: {', '.join(unseen[:20])})")
    return "\n".join(parts) or "no file changed"


def _file_diff(name: str, old: str | None, new: str | None) -> str:
    before, after = (old or "").splitlines(), (new or "").splitlines()
    if max(len(before), len(after)) > _MAX_LINES:
        return f"--- {name}\n+++ {name}\n(too long to compare: {len(before)} lines became {len(after)})"
    names = (f"a/{name}" if old is not None else "/dev/null", f"b/{name}" if new is not None else "/dev/null")
    return "\n".join(difflib.unified_diff(before, after, *names, lineterm=""))


def weights_summary(
    config: Experiment, run: RunDir, n: int, history: Sequence[PastGeneration], left_alone: str
) -> Json | None:
    """Return the weights entry of summary.json; None where the harness is the only lever."""
    if config.trainer.kind == "none":
        return None
    guaranteed = math.ceil(config.lever.latest_fraction * config.max_gen) + 1
    return {
        "algorithms": list(allowed_algorithms(config.trainer)),
        "plateau": plateau_length(history),
        "due_after_plateau": config.lever.plateau,
        "tried_by_generation": guaranteed if guaranteed <= config.max_gen else None,
        "left_alone": left_alone,
        "updates": [
            {
                "generation": g.n,
                "algorithm": g.algorithm,
                "status": g.status,
                "steps": g.training.steps if g.training else 0,
                "stopped": g.training.stopped if g.training else "",
                "fault": g.steps.get("build", {}).get("fault", "") or g.steps["propose"]["fault"],
                **{curve: _thinned(getattr(g.training, curve, [])) for curve in ("reward", "kl", "entropy")},
            }
            for g in finished_generations(JournalReader(run.journal))
            if g.n < n and g.lever in ("weights", "both")
        ],
    }


def _thinned(curve: Sequence[float]) -> list[float]:
    """Return first and last value and some between at equal distances; no negative zeros."""
    last = len(curve) - 1
    if last >= _CURVE_POINTS:
        curve = [curve[round(k * last / (_CURVE_POINTS - 1))] for k in range(_CURVE_POINTS)]
    return [round(value, 4) + 0.0 for value in curve]


def render_weights(weights: Mapping[str, Any] | None) -> Iterator[str]:
    """Yield the paragraphs of overview.md on the weights."""
    if weights is None:
        return
    yield "## The weights of the model that the harness calls"
    by = weights["tried_by_generation"]
    yield (
        f"They can be trained on rollouts of the harness ({', '.join(weights['algorithms'])}). By the rules of this "
        f"run that is due after {weights['due_after_plateau']} harnesses in a row that were not accepted (now: "
        f"{weights['plateau']})" + (f", and in generation {by} if nobody did it before." if by else ".")
    )
    if weights["left_alone"]:
        yield f"It is due now, and is not done: {one_line(weights['left_alone'], 400)}."
    if weights["updates"]:
        rows = ["| generation | algorithm | fate | steps | reward of rollouts | KL to the base |"]
        rows += ["| ---: | --- | --- | ---: | --- | --- |"]
        yield "\n".join([*rows, *map(_update_row, weights["updates"][-_NEWEST_UPDATES:])])


def _update_row(update: Mapping[str, Any]) -> str:
    fate = update["status"] + (f": {update['fault']}" if update["fault"] else "")
    fate += f"; stopped early: {update['stopped']}" if update["stopped"] else ""
    cells = [update["generation"], update["algorithm"] or "", one_line(fate, 200).replace("|", "\\|"), update["steps"]]
    cells += [" ".join(f"{value:.3g}" for value in update[curve]) for curve in ("reward", "kl")]
    return f"| {' | '.join(map(str, cells))} |"
