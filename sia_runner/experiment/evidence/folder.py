"""Writes gen_<n>/evidence, the files that a proposer may read; docs/evidence.md explains each of them."""

import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean, pvariance
from typing import Any

from sia_runner.config.experiment import Experiment
from sia_runner.experiment.context import RunContext
from sia_runner.experiment.evidence.candidate import (
    CandidateEvidence,
    choose_failures,
    confused_pairs,
    render_confusion,
    write_failures,
)
from sia_runner.experiment.evidence.history import (
    distil_lessons,
    history_json,
    render_weights,
    score_text,
    weights_summary,
    write_history,
)
from sia_runner.experiment.evidence.trajectories import write_trajectories
from sia_runner.experiment.execution import outcomes_of_split
from sia_runner.gateway.ledger_files import AccountTotals, read_totals
from sia_runner.records import Json, Outcome, PastGeneration
from sia_runner.selection.parents import better_groups
from sia_runner.store.files import read_tail
from sia_runner.store.journal import JournalReader, minutes_spent
from sia_runner.store.run_directory import RunDir, read_outcomes, remove_tree, write_json, write_text
from sia_runner.text import one_line, strip_control_characters

_OUTPUT_TAIL_BYTES = 16 * 1024  # bytes of what the parent printed
_NEWEST_GENERATIONS = 40  # generations in the table
_MAX_CONFUSIONS = 8
_FILE_DESCRIPTIONS = {
    "task.md": "the task, as every harness is told it",
    "summary.json": "the figures of this page, and all earlier generations",
    "harness": "the harness to be extended, whole",
    "failures.jsonl": "dev questions that it did not fully solve, with prediction and gold answer",
    "confusion.md": "how its dev questions ended, and which answers it took for which",
    "trajectories": "its model calls for some of these failures and a few successes, a file each",
    "partner": "the harness to be merged with it, and the dev questions on which the two differ",
    "lessons.md": "what was tried and did not help, and why",
    "history": "rationale, fate and diff of every earlier candidate",
    "stdout_tail.txt": "the end of what it printed",
}


def remaining_budget(config: Experiment, run: RunDir, n: int) -> dict[str, float | None]:
    """Return what is left of usd, tokens, calls and minutes before generation `n`; None where there is no limit."""
    budget, total, journal = config.budget, AccountTotals(), JournalReader(run.journal)
    for account, row in read_totals(run.ledger).rows.items():
        if account.generation < n:
            total.add(row)
    minutes = sum((minutes_spent(journal, k) for k in range(1, n)), 0.0)
    spending, share = total.usage().to_json() | {"minutes": minutes}, 1 - budget.test_reserve
    remaining: dict[str, float | None] = {}
    for name in ("usd", "tokens", "calls", "minutes"):
        limit: float | None = getattr(budget, name)
        part = 1 if name == "minutes" else share  # the final test may run beyond the minutes
        remaining[name] = None if limit is None else max(0.0, round(limit * part - spending[name], 6))
    return remaining


def reward_statistics(values: Sequence[float]) -> Json | None:
    """Return n, mean, variance, skewness and the shares of exactly 0 and 1 of `values`; None without values."""
    if not values:
        return None
    mean = fmean(values)
    variance = pvariance(values, mean)
    third = fmean((value - mean) ** 3 for value in values)
    return {
        "n": len(values),
        "mean": mean,
        "variance": variance,
        "share_zero": sum(value == 0 for value in values) / len(values),
        "share_one": sum(value == 1 for value in values) / len(values),
        "skew": third / variance**1.5 if variance**1.5 > 0 else 0.0,
    }


def write_evidence(
    context: RunContext,
    n: int,
    history: Sequence[PastGeneration],
    incumbent: int | None,
    parent: int | None = None,
    folder: Path | None = None,
    *,
    left_alone: str = "",
    partner: int | None = None,
) -> None:
    """Write the evidence of generation `n` to `folder` (None: the generation's own), replacing it.

    It is about `parent` (None: the incumbent), with which the proposal merges `partner` if that is not None.
    `left_alone` says why the weights are not trained although they are due.
    """
    config, run, task = context.config, context.run, context.task
    folder = folder or run.generation(n).evidence
    remove_tree(folder)
    folder.mkdir(parents=True)
    candidates = {k: CandidateEvidence.of(context, k, history) for k in {parent, incumbent, partner} if k}
    subject = candidates.get(parent or incumbent or 0)
    summary = {
        "task": task.name,
        "metric": {"name": task.metric, "higher_is_better": task.higher_is_better},
        "incumbent": candidates[incumbent].to_json() if incumbent else None,
        "parent": subject.to_json() if subject else None,
        "history": history_json(history),
        "reward": reward_statistics([outcome.value for outcome in subject.dev]) if subject else None,
        "confusions": confused_pairs(subject.failures) if subject else [],
        "weights": weights_summary(config, run, n, history, left_alone),
        # generations in progress have not settled theirs
        "budget_left": remaining_budget(config, run, len(history) + 1),
    }
    if subject and partner:
        summary["partner"] = _write_partner(run, candidates[partner], subject, config, folder / "partner")
    write_text(folder / "task.md", task.description, durable=False)
    write_json(folder / "summary.json", summary, durable=False)
    write_history(run, task, history, folder / "history")
    lessons = _lessons(context, history) if config.evidence.memory else []
    if lessons:
        write_text(folder / "lessons.md", "\n".join(["# What failed, and why", "", *lessons, ""]), durable=False)
    if subject:
        _write_candidate(config, run, subject, folder)
    write_text(folder / "overview.md", _render_overview(n, summary, folder, lessons), durable=False)


def _write_candidate(config: Experiment, run: RunDir, subject: CandidateEvidence, folder: Path) -> None:
    limit = config.evidence.max_kib * 1024
    selection, size = choose_failures(subject, config.evidence.max_failures, limit // 2 if subject.calls else limit)
    trajectory_numbers = write_trajectories(subject, selection, folder / "trajectories", limit - size)
    write_failures(selection, trajectory_numbers, folder / "failures.jsonl")
    write_text(folder / "confusion.md", render_confusion(subject), durable=False)
    shutil.copytree(run.generation(subject.n).harness, folder / "harness", symlinks=True)
    if subject.log.is_file() and not subject.saw_val_labels:
        tail = read_tail(subject.log, _OUTPUT_TAIL_BYTES)
        write_text(folder / "stdout_tail.txt", strip_control_characters(tail), durable=False)


def _write_partner(
    run: RunDir, partner: CandidateEvidence, subject: CandidateEvidence, config: Experiment, folder: Path
) -> Json:
    """Write the partner's harness and the dev questions on which it differs from the parent; return its summary."""
    own, other = ({outcome.unit: outcome.value for outcome in each.dev} for each in (partner, subject))
    better = set(better_groups(own, other, partner.higher_is_better))
    worse = set(better_groups(other, own, partner.higher_is_better))
    folder.mkdir()
    shutil.copytree(run.generation(partner.n).harness, folder / "harness", symlinks=True)
    for name, units, failures in (("better", better, subject.failures), ("worse", worse, partner.failures)):
        lines = [failure for failure in failures if failure.unit in units][: config.evidence.max_failures]
        write_failures(lines, {}, folder / f"{name}.jsonl")
    return partner.to_json() | {"better": len(better), "worse": len(worse)}


def _lessons(context: RunContext, history: Sequence[PastGeneration]) -> list[str]:
    def dev(n: int) -> list[Outcome]:
        return outcomes_of_split(context, read_outcomes(context.run.generation(n).scores), "dev")

    return [str(lesson) for lesson in distil_lessons(history, dev, context.task.higher_is_better)]


def _render_overview(n: int, summary: Mapping[str, Any], folder: Path, lessons: Sequence[str]) -> str:
    metric = summary["metric"]
    better = "higher" if metric["higher_is_better"] else "lower"
    limited = [f"{amount:,.6g} {name}" for name, amount in summary["budget_left"].items() if amount is not None]
    files = [f"- `{name}`: {text}" for name, text in _FILE_DESCRIPTIONS.items() if (folder / name).exists()]
    parts = [
        f"# Evidence for generation {n} of task {summary['task']}",
        f"Measured is {metric['name']}; {better} is better; intervals are 95%. A candidate is accepted when it beats "
        "the incumbent on val, question by question, by more than chance. Of val, only the figures here are known; of "
        "test, nothing. All else is about dev questions.",
        *_candidates_section(summary),
        *_parent_section(summary),
        *_partner_section(summary),
        *_history_section(summary["history"]),
        *(["## What failed, and why", "\n".join(lessons)] if lessons else []),
        *render_weights(summary["weights"]),
        *(["## Budget left", f"For this generation and those after it: {', '.join(limited)}."] if limited else []),
        "\n".join(["## Files", "", *files]),
    ]
    return "\n\n".join(parts) + "\n"


def _candidates_section(summary: Mapping[str, Any]) -> Iterator[str]:
    incumbent, parent = summary["incumbent"], summary["parent"]
    yield "## Where things stand"
    if parent is None:
        yield "No candidate was scored yet."
        return
    rows = ["| candidate | val | dev |", "| --- | --- | --- |"]
    candidates = [(parent, "the incumbent, to be extended" if incumbent == parent else "to be extended")]
    if incumbent and incumbent["generation"] != parent["generation"]:
        candidates.insert(0, (incumbent, "the incumbent"))
    for candidate, role in candidates:
        val, dev = score_text(candidate["val"]), score_text(candidate["dev"])
        rows.append(f"| generation {candidate['generation']}: {role} | {val} | {dev} |")
    yield "\n".join(rows)


def _parent_section(summary: Mapping[str, Any]) -> Iterator[str]:
    parent, reward = summary["parent"], summary["reward"]
    if parent is None or not reward:
        return
    yield f"## Generation {parent['generation']} on dev"
    total = sum(parent["outcomes"].values())
    kinds = ", ".join(f"{kind} {count} ({count / total:.0%})" for kind, count in parent["outcomes"].items())
    yield (
        f"- outcomes: {kinds}\n- reward: mean {reward['mean']:.4g}, variance {reward['variance']:.4g}, "
        f"skew {reward['skew']:.2f}, share of zeros {reward['share_zero']:.2f}, "
        f"share of ones {reward['share_one']:.2f} (n={reward['n']})"
    )
    pairs = [
        f'"{one_line(pair["gold"], 60)}" taken for "{one_line(pair["predicted"], 60)}" {pair["count"]} times'
        for pair in summary["confusions"][:_MAX_CONFUSIONS]
    ]
    if pairs:
        yield "Most frequent confusions: " + "; ".join(pairs) + "."


def _partner_section(summary: Mapping[str, Any]) -> Iterator[str]:
    if partner := summary.get("partner"):
        yield f"## Generation {partner['generation']}, to be merged with it"
        yield (
            f"It does better on {partner['better']} dev questions (`partner/better.jsonl`: what generation "
            f"{summary['parent']['generation']} answered) and worse on {partner['worse']} (`partner/worse.jsonl`: what "
            f"it answered itself). On dev it has {score_text(partner['dev'])}."
        )


def _history_section(history: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    if not history:
        return
    yield "## What was tried"
    rows = ["| generation | extended | what | fate | val |", "| ---: | ---: | --- | --- | --- |"]
    for entry in history[-_NEWEST_GENERATIONS:]:
        texts = [entry["title"], f"{entry['status']}: {entry['reason']}"]
        what, fate = (one_line(text, 160).replace("|", "\\|") for text in texts)
        cells = [entry["generation"], entry["parent"] or "", what, fate, score_text(entry["val"])]
        rows.append(f"| {' | '.join(map(str, cells))} |")
    yield "\n".join(rows)
    older = len(history) - _NEWEST_GENERATIONS
    if older > 0:
        yield f"{older} older generations are in summary.json."
