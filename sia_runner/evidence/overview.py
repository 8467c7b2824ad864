"""Writes overview.md, one page to read first, from summary.json, so that the two never disagree."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from sia_runner.evidence import updates
from sia_runner.evidence.past import score_text
from sia_runner.ground.plaintext import one_line
from sia_runner.records import Score

_NEWEST = 40  # generations in the table
_CONFUSIONS = 8
_FILES = {
    "task.md": "the task, as every harness is told it",
    "summary.json": "the figures of this page, and all earlier generations",
    "harness": "the harness to be extended, whole",
    "failures.jsonl": "dev questions that it did not fully solve, with prediction and gold answer",
    "confusion.md": "how its dev questions ended, and which answers it took for which",
    "trajectories": "its model calls for some of these failures and a few successes, a file each",
    "history": "rationale, fate and diff of every earlier candidate",
    "stdout_tail.txt": "the end of what it printed",
}


def render(n: int, summary: Mapping[str, Any], folder: Path) -> str:
    """Return overview.md as text."""
    metric = summary["metric"]
    better = "higher" if metric["higher_is_better"] else "lower"
    parts = [
        f"# Evidence for generation {n} of task {summary['task']}",
        f"Measured is {metric['name']}; {better} is better; intervals are 95%. A candidate is accepted when it beats "
        "the incumbent on val, question by question, by more than chance. Of val, only the figures here are known; of "
        "test, nothing. All else is about dev questions.",
        *_standing(summary),
        *_parent(summary),
        *_tried(summary["history"]),
        *updates.render(summary["weights"]),
        *_budget(summary["budget_left"]),
        _files(folder),
    ]
    return "\n\n".join(parts) + "\n"


def _standing(summary: Mapping[str, Any]) -> Iterator[str]:
    incumbent, parent = summary["incumbent"], summary["parent"]
    yield "## Where things stand"
    if parent is None:
        yield "No candidate was scored yet."
        return
    rows = ["| candidate | val | dev |", "| --- | --- | --- |"]
    if incumbent and incumbent["generation"] != parent["generation"]:
        rows.append(_row(f"generation {incumbent['generation']}: the incumbent", incumbent))
    role = "the incumbent, to be extended" if incumbent == parent else "to be extended"
    yield "\n".join([*rows, _row(f"generation {parent['generation']}: {role}", parent)])


def _row(name: str, candidate: Mapping[str, Any]) -> str:
    return f"| {name} | {_score(candidate['val'])} | {_score(candidate['dev'])} |"


def _parent(summary: Mapping[str, Any]) -> Iterator[str]:
    parent, reward = summary["parent"], summary["reward"]
    if parent is None or not reward:
        return
    yield f"## Generation {parent['generation']} on dev"
    total = sum(parent["outcomes"].values())
    kinds = ", ".join(f"{kind} {count} ({count / total:.0%})" for kind, count in parent["outcomes"].items())
    yield f"- outcomes: {kinds}\n- reward: {_reward(reward)}"
    confused = summary["confusions"][:_CONFUSIONS]
    if confused:
        pairs = [f"{_quoted(c['gold'])} taken for {_quoted(c['predicted'])} {c['count']} times" for c in confused]
        yield "Most frequent confusions: " + "; ".join(pairs) + "."


def _reward(reward: Mapping[str, Any]) -> str:
    return (
        f"mean {reward['mean']:.4g}, variance {reward['variance']:.4g}, skew {reward['skew']:.2f}, "
        f"share of zeros {reward['share_zero']:.2f}, share of ones {reward['share_one']:.2f} (n={reward['n']})"
    )


def _tried(history: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    if not history:
        return
    yield "## What was tried"
    rows = ["| generation | extended | what | fate | val |", "| ---: | ---: | --- | --- | --- |"]
    for past in history[-_NEWEST:]:
        what, fate = _in_table(past["title"]), _in_table(f"{past['status']}: {past['reason']}")
        rows.append(f"| {past['generation']} | {past['parent'] or ''} | {what} | {fate} | {_score(past['val'])} |")
    yield "\n".join(rows)
    older = len(history) - _NEWEST
    if older > 0:
        yield f"{older} older generations are in summary.json."


def _budget(remaining: Mapping[str, float | None]) -> Iterator[str]:
    limited = [f"{amount:,.6g} {name}" for name, amount in remaining.items() if amount is not None]
    if limited:
        yield "## Budget left"
        yield "For this generation and those after it: " + ", ".join(limited) + "."


def _files(folder: Path) -> str:
    entries = [f"- `{name}`: {description}" for name, description in _FILES.items() if (folder / name).exists()]
    return "\n".join(["## Files", "", *entries])


def _score(score: Mapping[str, Any] | None) -> str:
    return score_text(Score.from_json(score) if score else None)


def _in_table(text: str) -> str:
    return one_line(text, 160).replace("|", "\\|")


def _quoted(text: str) -> str:
    return f'"{one_line(text, 60)}"'
