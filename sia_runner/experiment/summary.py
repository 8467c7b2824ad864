"""The files summary.json, usage.json and context.md: the journal in the shapes that people and reports read."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from sia_runner.experiment.context import RunContext
from sia_runner.gateway.ledger_files import read_totals
from sia_runner.records import Json, Lever, Score
from sia_runner.selection.scoring import leaderboard_lines
from sia_runner.store.directions import Direction, directed_words, read_directions
from sia_runner.store.generations import NO_MODEL, GenerationRecord, TrainingRecord, earned_mode, weights_were_tried
from sia_runner.store.journal import (
    JournalReader,
    find_incumbent,
    finished_generations,
    generation_awaiting_approval,
    test_result_of,
)
from sia_runner.store.run_directory import read_json

_PUBLISHED_NAMES = {"initial": "initial", "prior": "prior", "sia_h": "SIA-H", "sia_wh": "SIA-W+H"}


def published_lines(declared: Mapping[str, Any] | None) -> list[str]:
    """Return the lines on `task.published`; none where nothing is declared. These figures decide nothing."""
    if not declared:
        return []
    figures = [
        # three decimals like our own scores, or none for values in a small unit (12,483 microseconds)
        f"{label} {value:.3f}" if abs(value) < 100 else f"{label} {value:,.0f}"
        for key, label in _PUBLISHED_NAMES.items()
        if (value := declared[key]) is not None
    ]
    return [
        f"published: {', '.join(figures) or 'no figure'} ({declared['source']})",
        f"  its protocol differs: {declared['protocol']}",
    ]


def build_summary(context: RunContext, journal: JournalReader, status: str) -> Json:
    """Return the content of summary.json. `status`: running | completed | failed | budget | interrupted."""
    generations = finished_generations(journal)
    config, run, task = context.config, context.run, context.task
    best = find_incumbent(generations)
    totals = read_totals(run.ledger)
    directions = [direction.to_json() for direction in read_directions(journal)]
    published = getattr(config.task, "published", None)  # a sia-agent folder declares none
    return {
        "run": run.path.name,
        "task": task.name,
        "mode": earned_mode(config.trainer.mode, generations, run.path),
        "status": status,
        "metric": {"name": task.metric, "higher_is_better": task.higher_is_better},
        "seed": config.seed,
        "split_seed": config.split_seed,
        "selected_on_test": not task.has_test,
        "generations": [replace(g, usage=totals.of(generation=g.n).to_json()).summary_row() for g in generations],
        "best": None if best is None else _best_json(journal, generations, best),
        "stopped": next((e["reason"] for e in journal.of("stopped")), None),
        "untrained": None if status in ("running", "interrupted") else _untrained_reason(context, generations),
        "waits": generation_awaiting_approval(journal),  # the generation whose plan a person has to approve
        "published": published and published.model_dump(),  # what others report on this task
        **({"directions": directions} if directions else {}),  # notes by which a person steered the run
        "usage": totals.total.to_json(),
        "journal_head": journal.head,
    }


def _untrained_reason(context: RunContext, generations: Sequence[GenerationRecord]) -> str | None:
    config, run = context.config, context.run
    if config.trainer.kind == "none" or weights_were_tried(generations):
        return None
    if earned_mode(config.trainer.mode, generations, run.path) == NO_MODEL:
        return "no harness called a model; docs/harness.md shows how one does"
    for n in range(len(generations) + 1, 0, -1):  # the last one may be that of the proposer's stop
        path = run.generation(n).decision
        if path.is_file() and (skipped := read_json(path)["evidence"].get("skipped")):
            return f"generation {n}: {skipped}"
    if other := next((g for g in reversed(generations) if g.lever != Lever.HARNESS), None):
        return f"generation {other.n}: {other.reason}"
    if find_incumbent(generations) is None:
        return "no harness was accepted, so there was nothing to train"
    due = f"lever.plateau={config.lever.plateau}, lever.latest_fraction={config.lever.latest_fraction}"
    return f"it was never due in {len(generations)} generations ({due})"


def update_line(update: TrainingRecord) -> str:
    """Format an update as ``16 of 16 steps, reward 0.312 -> 0.671, KL 1.204, entropy 0.301, 40,960 tokens, 31.2 s``."""
    parts = [f"{update.steps} of {update.asked} steps"]
    if update.reward:
        parts.append(f"reward {update.reward[0] or 0:.3f} -> {update.reward[-1] or 0:.3f}")
    for name, curve in (("KL", update.kl), ("entropy", update.entropy)):
        parts += [f"{name} {round(curve[-1] or 0, 3) + 0.0:.3f}"] if curve else []
    parts += [f"{update.tokens or 0:,} tokens", f"{update.seconds or 0:.1f} s"]
    return ", ".join(parts) + (f"; stopped early: {update.stopped}" if update.stopped else "")


def _best_json(journal: JournalReader, generations: Sequence[GenerationRecord], best: int) -> Json:
    of_best, of_baseline = test_result_of(journal, best), test_result_of(journal, generations[0].n)
    scores = {
        "generation": best,
        "val": next(g.val and g.val.to_json() for g in generations if g.n == best),
        "test": of_best and of_best["score"],
        "baseline_test": of_baseline and of_baseline["score"],
    }
    graded = {"standing": of_best, "baseline_standing": of_baseline}  # only tasks with a grader or medals have a grade
    return scores | {name: result["standing"] for name, result in graded.items() if result and "standing" in result}


def context_markdown(summary: Json) -> str:
    """Return the story of the run in Markdown."""
    lines = [f"# {summary['task']} · {summary['mode']} · {summary['status']}", ""]
    if summary["selected_on_test"]:
        lines += ["**selected_on_test**: this task brings its own evaluator and cannot be split.", ""]
    directions = [Direction(**note) for note in summary.get("directions", ())]
    lines += [f"No fair arm: {directed_words(directions)}.", ""] if directions else []
    for g in map(GenerationRecord.from_summary_row, summary["generations"]):
        lines += [f"## Generation {g.n}: {g.title}", ""]
        lines += [f"- {note.sentence}" for note in directions if note.n == g.n]
        lines += [f"- lever {g.lever}, **{g.status}**: {g.reason}"]
        lines += [f"- merges generations {g.parent} and {g.partner}"] if g.partner else []
        lines += [f"- proposed by {g.model}"] if g.model else []
        if g.val:
            lines += [f"- val {g.val}; outcomes {g.outcomes}"]
        if g.training:
            lines += [f"- update: {g.algorithm}, {update_line(g.training)}; adapter gen_{g.n}/adapter"]
        lines += [f"- why: gen_{g.n}/improvement.md", ""]
    best = summary["best"]
    if best and best["test"]:
        lines += ["## Test, scored once", "", f"- generation {best['generation']}: {format_score(best['test'])}"]
        lines += [f"  - {line}" for line in leaderboard_lines(best.get("standing"))]
        if best["baseline_test"]:
            lines += [f"- first harness: {format_score(best['baseline_test'])}"]
        lines += [*(f"- {line.strip()}" for line in published_lines(summary.get("published"))), ""]
    if summary["waits"]:
        lines += [f"Waits for approval of gen_{summary['waits']}/plan.md", ""]
    for key, what in (("stopped", "Stopped"), ("untrained", "The weights were never trained")):
        lines += [f"{what}: {summary[key]}", ""] if summary.get(key) else []
    return "\n".join(lines)


def format_score(score: Mapping[str, Any]) -> str:
    """Format a score as ``0.781 [0.753, 0.806] (n=913)``."""
    return str(Score.from_json(score))
