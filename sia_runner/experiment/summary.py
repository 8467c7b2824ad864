"""The files summary.json, usage.json and context.md: the journal in the shapes that people and reports read.

The figures that others published on a task stand beside our own, with the difference in protocol."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sia_runner.config.experiment import Experiment
from sia_runner.experiment.context import RunContext
from sia_runner.gateway.ledger_files import AccountTotals, read_totals
from sia_runner.selection.scoring import leaderboard_lines
from sia_runner.store.journal import (
    GENERATION_STEPS,
    FinishedGeneration,
    JournalReader,
    find_incumbent,
    finished_generations,
    generation_awaiting_approval,
    test_result_of,
)
from sia_runner.store.run_directory import RunDir, write_json, write_text

PUBLISHED_NAMES = {"initial": "initial", "prior": "prior", "sia_h": "SIA-H", "sia_wh": "SIA-W+H"}


def published_lines(declared: Mapping[str, Any] | None) -> list[str]:
    """Return the lines on `task.published`; none where nothing is declared. These figures decide nothing."""
    if not declared:
        return []
    figures = [
        f"{label} {format_figure(declared[key])}" for key, label in PUBLISHED_NAMES.items() if declared[key] is not None
    ]
    return [
        f"published: {', '.join(figures) or 'no figure'} ({declared['source']})",
        f"  its protocol differs: {declared['protocol']}",
    ]


def format_figure(value: float) -> str:
    """Format with three decimals like our own scores, or none for values in a small unit (12,483 microseconds)."""
    return f"{value:.3f}" if abs(value) < 100 else f"{value:,.0f}"


Json = dict[str, Any]


def build_summary(context: RunContext, journal: JournalReader, status: str) -> Json:
    """Return the content of summary.json. `status`: running | completed | failed | budget | interrupted."""
    generations = finished_generations(journal)
    config, run, task = context.config, context.run, context.task
    best = find_incumbent(generations)
    totals = read_totals(run.ledger)
    return {
        "run": run.path.name,
        "task": task.name,
        "mode": config.trainer.mode,
        "status": status,
        "metric": {"name": task.metric, "higher_is_better": task.higher_is_better},
        "seed": config.seed,
        "split_seed": config.split_seed,
        "selected_on_test": not task.has_test,
        "generations": [_generation_json(g, totals.of(generation=g.n)) for g in generations],
        "best": None if best is None else _best_json(journal, generations, best),
        "stopped": next((e["reason"] for e in journal.of("stopped")), None),
        "waits": generation_awaiting_approval(journal),  # the generation whose plan a person has to approve
        "published": _published_json(config),  # what others report on this task
        "usage": usage_json(totals.total),
        "journal_head": journal.head,
    }


def usage_json(row: AccountTotals) -> Json:
    """Return what was spent on models. `usd` is null where any call has no known price, never zero for it."""
    return {
        "usd": round(row.dollars, 9) if row.priced else None,
        "tokens": row.input_tokens + row.output_tokens,
        "calls": row.calls,
        "input_tokens": row.input_tokens,
        "output_tokens": row.output_tokens,
        "unanswered": row.unanswered,  # sent without receiving an answer; counted at the reserved amount
    }


def _generation_json(g: FinishedGeneration, row: AccountTotals) -> Json:
    proposal = g.steps["propose"]
    verify = g.steps.get("verify", {})
    return {
        "n": g.n,
        "lever": proposal["lever"],
        "algorithm": proposal["algorithm"],
        "title": proposal["title"],
        "status": g.status,
        "reason": g.steps["accept"]["reason"],
        "parent": proposal["parent"],
        "val": verify.get("val"),
        "outcomes": verify.get("outcomes", {}),
        "training": training_json(g),
        "seconds": {step: g.seconds[step] for step in GENERATION_STEPS if step in g.seconds},
        "usage": usage_json(row),
    }


def training_json(g: FinishedGeneration) -> Json | None:
    """Return the weights update of a generation, if any; curves have one value per step or per rollout batch."""
    build_result = g.steps.get("build", {})
    if "reward" not in build_result:
        return None
    keys = ("steps", "reward", "kl", "entropy", "stopped", "tokens", "seconds")
    return {"asked": build_result["algorithm"]["steps"]} | {key: build_result[key] for key in keys}


def update_line(update: Json) -> str:
    """Format an update as ``16 of 16 steps, reward 0.312 -> 0.671, KL 1.204, entropy 0.301, 40,960 tokens, 31.2 s``."""
    parts = [f"{update['steps']} of {update['asked']} steps"]
    if reward := update["reward"]:
        parts.append(f"reward {reward[0]:.3f} -> {reward[-1]:.3f}")
    parts += [
        f"{name} {round(update[key][-1], 3) + 0.0:.3f}"
        for name, key in (("KL", "kl"), ("entropy", "entropy"))
        if update[key]
    ]
    parts += [f"{update['tokens']:,} tokens", f"{update['seconds']:.1f} s"]
    return ", ".join(parts) + (f"; stopped early: {update['stopped']}" if update["stopped"] else "")


def _published_json(config: Experiment) -> Json | None:
    declared = getattr(config.task, "published", None)  # a sia-agent folder declares none
    return declared and declared.model_dump()


def _best_json(journal: JournalReader, generations: Sequence[FinishedGeneration], best: int) -> Json:
    of_best, of_baseline = test_result_of(journal, best), test_result_of(journal, generations[0].n)
    scores = {
        "generation": best,
        "val": next(g.steps["verify"]["val"] for g in generations if g.n == best),
        "test": of_best and of_best["score"],
        "baseline_test": of_baseline and of_baseline["score"],
    }
    standings = {"standing": of_best, "baseline_standing": of_baseline}  # only tasks with a grader or medals have one
    return scores | {name: result["standing"] for name, result in standings.items() if result and "standing" in result}


def write_summary(run: RunDir, summary: Json) -> None:
    """Write summary.json, usage.json and context.md."""
    write_json(run.summary, summary)
    write_json(run.path / "usage.json", summary["usage"])
    write_text(run.context, context_markdown(run.path, summary))


def context_markdown(run: Path, summary: Json) -> str:
    """Return the story of the run in Markdown."""
    lines = [f"# {summary['task']} · {summary['mode']} · {summary['status']}", ""]
    if summary["selected_on_test"]:
        lines += ["**selected_on_test**: this task brings its own evaluator and cannot be split.", ""]
    for g in summary["generations"]:
        lines += [f"## Generation {g['n']}: {g['title']}", ""]
        lines += [f"- lever {g['lever']}, **{g['status']}**: {g['reason']}"]
        if g["val"]:
            lines += [f"- val {format_score(g['val'])}; outcomes {g['outcomes']}"]
        if g["training"]:
            lines += [f"- update: {g['algorithm']}, {update_line(g['training'])}; adapter gen_{g['n']}/adapter"]
        lines += [f"- why: gen_{g['n']}/improvement.md", ""]
    best = summary["best"]
    if best and best["test"]:
        lines += ["## Test, scored once", "", f"- generation {best['generation']}: {format_score(best['test'])}"]
        lines += [f"  - {line}" for line in leaderboard_lines(best.get("standing"))]
        if best["baseline_test"]:
            lines += [f"- first harness: {format_score(best['baseline_test'])}"]
        lines += [f"- {line.strip()}" for line in published_lines(summary.get("published"))]
        lines += [""]
    if summary["waits"]:
        lines += [f"Waits for approval of gen_{summary['waits']}/plan.md", ""]
    if summary["stopped"]:
        lines += [f"Stopped: {summary['stopped']}", ""]
    return "\n".join(lines)


def format_score(score: Json) -> str:
    """Format a score as ``0.781 [0.753, 0.806] (n=913)``."""
    bounds = "" if score["ci95"] is None else f" [{score['ci95'][0]:.3f}, {score['ci95'][1]:.3f}]"
    return f"{score['value']:.3f}{bounds} (n={score['n']})"
