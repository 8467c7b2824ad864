"""Writes gen_<n>/evidence, the files that a proposer may read: dev with gold answers, val only as aggregates.

docs/evidence.md explains each file.
"""

import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean, pvariance
from typing import Any

from sia_runner.config.experiment import Experiment
from sia_runner.experiment.context import RunContext
from sia_runner.experiment.evidence import candidate, trajectories
from sia_runner.experiment.evidence import history as past
from sia_runner.experiment.evidence.candidate import CandidateEvidence
from sia_runner.gateway.ledger_files import AccountTotals, read_totals
from sia_runner.records import Json, PastGeneration, Score
from sia_runner.store.journal import JournalReader, minutes_spent
from sia_runner.store.run_directory import RunDir, remove_tree, write_json, write_text
from sia_runner.text import one_line, strip_control_characters


def remaining_budget(config: Experiment, run: RunDir, n: int) -> dict[str, float | None]:
    """Return what is left of usd, tokens, calls and minutes; None where there is no limit.

    This is the limit, less the reserve for the final test, less the spending of generations before `n`. Generation n's
    own spending is not included: a repeated proposal reads the same figures.
    """
    budget, spending = config.budget, AccountTotals()
    for account, row in read_totals(run.ledger).rows.items():
        if account.generation < n:
            spending.add(row)
    usage = spending.usage()
    used = {"usd": usage.usd, "tokens": usage.tokens, "calls": usage.calls}
    amounts: dict[str, float | None] = {
        name: _remaining_amount(getattr(budget, name), 1 - budget.test_reserve, spending)
        for name, spending in used.items()
    }
    return amounts | {"minutes": _remaining_amount(budget.minutes, 1.0, _minutes_before(run, n))}


def _remaining_amount(limit: float | None, share: float, spending: float) -> float | None:
    return None if limit is None else max(0.0, round(limit * share - spending, 6))


def _minutes_before(run: RunDir, n: int) -> float:
    journal = JournalReader(run.journal)
    return sum(minutes_spent(journal, k) for k in range(1, n))


def reward_statistics(values: Sequence[float]) -> Json | None:
    """Return statistics of `values`; None without values.

    These are n, mean, population variance, skewness (third standardised moment; 0 where all are equal), and the shares
    of exactly 0 and exactly 1.
    """
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


_OUTPUT_TAIL_BYTES = 16 * 1024  # bytes of what the parent printed


def write_evidence(
    context: RunContext,
    n: int,
    history: Sequence[PastGeneration],
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
    config, run, task = context.config, context.run, context.task
    folder = folder or run.generation(n).evidence
    remove_tree(folder)
    folder.mkdir(parents=True)
    candidates = {k: CandidateEvidence.of(context, k, history) for k in {parent, incumbent} if k}
    subject = candidates.get(parent or incumbent or 0)
    summary = {
        "task": task.name,
        "metric": {"name": task.metric, "higher_is_better": task.higher_is_better},
        "incumbent": candidates[incumbent].to_json() if incumbent else None,
        "parent": subject.to_json() if subject else None,
        "history": past.history_json(history),
        "reward": reward_statistics([outcome.value for outcome in subject.dev]) if subject else None,
        "confusions": candidate.confused_pairs(subject.failures) if subject else [],
        "weights": past.weights_summary(config, run, n, history, left_alone),
        "budget_left": remaining_budget(
            config, run, len(history) + 1
        ),  # generations in progress have not settled theirs
    }
    write_text(folder / "task.md", task.description)
    write_json(folder / "summary.json", summary)
    past.write_history(run, task, history, folder / "history")
    if subject:
        _write_candidate(config, run, subject, folder)
    write_text(folder / "overview.md", render_overview(n, summary, folder))


def _write_candidate(config: Experiment, run: RunDir, subject: CandidateEvidence, folder: Path) -> None:
    """Write the evidence about the candidate to be extended."""
    limit = config.evidence.max_kib * 1024
    selection = candidate.choose_failures(subject, config.evidence.max_failures, limit // 2 if subject.calls else limit)
    trajectory_numbers = trajectories.write_trajectories(
        subject, selection, folder / "trajectories", limit - candidate.failures_size(selection)
    )
    candidate.write_failures(selection, trajectory_numbers, folder / "failures.jsonl")
    write_text(folder / "confusion.md", candidate.render_confusion(subject))
    shutil.copytree(run.generation(subject.n).harness, folder / "harness", symlinks=True)
    if subject.log.is_file() and not subject.taught_val:
        tail = subject.log.read_bytes()[-_OUTPUT_TAIL_BYTES:].decode("utf-8", "replace")
        write_text(folder / "stdout_tail.txt", strip_control_characters(tail))


_NEWEST_GENERATIONS = 40  # generations in the table
_MAX_CONFUSIONS = 8
_FILE_DESCRIPTIONS = {
    "task.md": "the task, as every harness is told it",
    "summary.json": "the figures of this page, and all earlier generations",
    "harness": "the harness to be extended, whole",
    "failures.jsonl": "dev questions that it did not fully solve, with prediction and gold answer",
    "confusion.md": "how its dev questions ended, and which answers it took for which",
    "trajectories": "its model calls for some of these failures and a few successes, a file each",
    "history": "rationale, fate and diff of every earlier candidate",
    "stdout_tail.txt": "the end of what it printed",
}


def render_overview(n: int, summary: Mapping[str, Any], folder: Path) -> str:
    """Return overview.md as text."""
    metric = summary["metric"]
    better = "higher" if metric["higher_is_better"] else "lower"
    parts = [
        f"# Evidence for generation {n} of task {summary['task']}",
        f"Measured is {metric['name']}; {better} is better; intervals are 95%. A candidate is accepted when it beats "
        "the incumbent on val, question by question, by more than chance. Of val, only the figures here are known; of "
        "test, nothing. All else is about dev questions.",
        *_standing_section(summary),
        *_parent_section(summary),
        *_history_section(summary["history"]),
        *past.render_weights(summary["weights"]),
        *_budget_section(summary["budget_left"]),
        _files_section(folder),
    ]
    return "\n\n".join(parts) + "\n"


def _standing_section(summary: Mapping[str, Any]) -> Iterator[str]:
    incumbent, parent = summary["incumbent"], summary["parent"]
    yield "## Where things stand"
    if parent is None:
        yield "No candidate was scored yet."
        return
    rows = ["| candidate | val | dev |", "| --- | --- | --- |"]
    if incumbent and incumbent["generation"] != parent["generation"]:
        rows.append(_candidate_row(f"generation {incumbent['generation']}: the incumbent", incumbent))
    role = "the incumbent, to be extended" if incumbent == parent else "to be extended"
    yield "\n".join([*rows, _candidate_row(f"generation {parent['generation']}: {role}", parent)])


def _candidate_row(name: str, candidate: Mapping[str, Any]) -> str:
    return f"| {name} | {_score_text(candidate['val'])} | {_score_text(candidate['dev'])} |"


def _parent_section(summary: Mapping[str, Any]) -> Iterator[str]:
    parent, reward = summary["parent"], summary["reward"]
    if parent is None or not reward:
        return
    yield f"## Generation {parent['generation']} on dev"
    total = sum(parent["outcomes"].values())
    kinds = ", ".join(f"{kind} {count} ({count / total:.0%})" for kind, count in parent["outcomes"].items())
    yield f"- outcomes: {kinds}\n- reward: {_reward_text(reward)}"
    confused = summary["confusions"][:_MAX_CONFUSIONS]
    if confused:
        pairs = [f"{_quoted(c['gold'])} taken for {_quoted(c['predicted'])} {c['count']} times" for c in confused]
        yield "Most frequent confusions: " + "; ".join(pairs) + "."


def _reward_text(reward: Mapping[str, Any]) -> str:
    return (
        f"mean {reward['mean']:.4g}, variance {reward['variance']:.4g}, skew {reward['skew']:.2f}, "
        f"share of zeros {reward['share_zero']:.2f}, share of ones {reward['share_one']:.2f} (n={reward['n']})"
    )


def _history_section(history: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    if not history:
        return
    yield "## What was tried"
    rows = ["| generation | extended | what | fate | val |", "| ---: | ---: | --- | --- | --- |"]
    for entry in history[-_NEWEST_GENERATIONS:]:
        what, fate = _in_table(entry["title"]), _in_table(f"{entry['status']}: {entry['reason']}")
        rows.append(
            f"| {entry['generation']} | {entry['parent'] or ''} | {what} | {fate} | {_score_text(entry['val'])} |"
        )
    yield "\n".join(rows)
    older = len(history) - _NEWEST_GENERATIONS
    if older > 0:
        yield f"{older} older generations are in summary.json."


def _budget_section(remaining: Mapping[str, float | None]) -> Iterator[str]:
    limited = [f"{amount:,.6g} {name}" for name, amount in remaining.items() if amount is not None]
    if limited:
        yield "## Budget left"
        yield "For this generation and those after it: " + ", ".join(limited) + "."


def _files_section(folder: Path) -> str:
    entries = [
        f"- `{name}`: {description}" for name, description in _FILE_DESCRIPTIONS.items() if (folder / name).exists()
    ]
    return "\n".join(["## Files", "", *entries])


def _score_text(score: Mapping[str, Any] | None) -> str:
    return past.score_text(Score.from_json(score) if score else None)


def _in_table(text: str) -> str:
    return one_line(text, 160).replace("|", "\\|")


def _quoted(text: str) -> str:
    return f'"{one_line(text, 60)}"'
