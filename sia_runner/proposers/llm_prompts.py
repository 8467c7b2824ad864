"""Renders the prompts of the language-model proposer and its improvement.md."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sia_runner.proposers import prompting
from sia_runner.proposers.llm_workspace import ProposalWorkspace, Submission, clip_text, digest_of_files
from sia_runner.proposers.prompting import plus_minus, render_markdown, table_cell
from sia_runner.proposers.protocol import Brief, ProposerContext
from sia_runner.records import PastGeneration

_PROMPTS = Path(__file__).parent / "prompts" / "llm"


def render_prompt(template: str, **values: Any) -> str:
    """Render a template of this proposer."""
    return render_markdown(_PROMPTS, template, **values)


def prompt_cell(text: object) -> str:
    """Return foreign text for a table cell, at most 200 characters."""
    return table_cell(text, 200)


_PASTS = 20  # newest generations shown
_FILES = 60  # names shown


@dataclass(frozen=True, slots=True)
class PromptData:
    """The data of the prompts. `limit` is the bytes of a whole request; each long text takes a share of it."""

    context: ProposerContext
    brief: Brief
    desk: ProposalWorkspace
    turns: int
    limit: int

    def system(self) -> str:
        """Return the system prompt."""
        return render_prompt(
            "system.md.j2",
            first=self.desk.first,
            task=self.context.task_name,
            higher_is_better=self.brief.higher_is_better,
            entry=self.context.entry,
            submission=self.context.submission,
            seconds=f"{self.context.limits_seconds:.0f}",
            python=f"{sys.version_info.major}.{sys.version_info.minor}",
            calls_model=self.context.calls_model,
            start=self._start(),
            weights=self.desk.weights,
            trials=self.desk.trials,
            questions=self.desk.questions,
            turns=self.turns,
        )

    def task(self) -> str:
        """Return the first user message: the task, the files, and for an improvement the history."""
        values: dict[str, Any] = {
            "task": self.context.task_name,
            "n": self.brief.n,
            "max_gen": self.brief.max_gen,
            "sibling": self.brief.sibling,
            "direction": prompting.direction_for(self.brief, self.context.calls_model),
            "description": self._shortened(self.context.description or self.desk.evidence.get("task.md", ""), 8),
            "files": self._files(),
        }
        if self.desk.first:
            return render_prompt("first.md.j2", **values)
        overview = self.desk.evidence.get("overview.md", "There is no overview; look at the files of evidence/.")
        history = [_history_entry(past) for past in self.brief.history[-_PASTS:] if past.notes]
        while history and len(str(history).encode(errors="replace")) > self.limit // 8:
            history.pop(0)
        return render_prompt(
            "improve.md.j2",
            **values,
            parent=self._parent(),
            due_reason=self.desk.weights.due_reason if self.desk.weights else "",
            overview=self._shortened(overview, 6),
            history=history,
        )

    def _shortened(self, text: str, share: int) -> str:
        return clip_text(text.strip(), self.limit // share)

    def _start(self) -> str:
        extends = self.brief.parent is not None or any(name.startswith("harness/") for name in self.desk.evidence)
        return "the parent's harness" if extends else "the task's reference harness"

    def _parent(self) -> str:
        parent, incumbent = self.brief.parent, self.brief.incumbent
        if parent is None:
            return "No earlier harness could be scored, so you start from the reference again."
        if parent == incumbent:
            return f"You extend generation {parent}, the best so far."
        best = "" if incumbent is None else f"; the best so far, which must be beaten, is generation {incumbent}"
        return f"You extend generation {parent}{best}."

    def _files(self) -> str:
        paths = [f"- `{path}`" for path in self.desk.under("")]
        paths.sort(key=lambda path: path.count("/"))  # files at the top are to be read first
        more = [f"- and {len(paths) - _FILES} more"] if len(paths) > _FILES else []
        return self._shortened("\n".join(paths[:_FILES] + more), 8)


def _history_entry(past: PastGeneration) -> dict[str, Any]:
    trials = past.notes.get("trials") or []
    return {
        "n": past.n,
        "title": prompt_cell(past.title),
        "status": past.status,
        "tried": ", ".join(f"{trial['value']:.3g} ({trial['n']} questions)" for trial in trials[-8:]),
        "expected": prompt_cell(past.notes.get("expected_effect", "")),
    }


def improvement_text(brief: Brief, desk: ProposalWorkspace, submission: Submission) -> str:
    """Return the text of improvement.md for a submission."""
    draft_digest = digest_of_files(desk.draft.files)
    tried = [
        {
            "proposed": tried.digest == draft_digest,
            "dev": plus_minus(tried.trial.value, tried.trial.n),
            "n": tried.trial.n,
            "seconds": f"{tried.trial.seconds:.1f}",
            "note": prompt_cell(tried.trial.failure),
        }
        for tried in desk.tried
    ]
    return render_prompt(
        "improvement.md.j2",
        n=brief.n,
        title=submission.title,
        algorithm=submission.algorithm,
        changes=_changed_files(desk.draft.start, desk.draft.files),
        rationale=submission.rationale,
        expected_effect=submission.expected_effect,
        tried=tried,
    )


def _changed_files(before: Mapping[str, str], after: Mapping[str, str]) -> list[str]:
    kinds = (
        ("new", after.keys() - before.keys()),
        ("changed", {name for name in after.keys() & before.keys() if after[name] != before[name]}),
        ("deleted", before.keys() - after.keys()),
    )
    return [f"`{name}`: {kind}" for kind, names in kinds for name in sorted(names)]
