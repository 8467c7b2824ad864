"""Renders the prompts: how the loop works, what is known, what to do."""

import sys
from dataclasses import dataclass
from typing import Any

from sia_runner.agents.llm import directions
from sia_runner.agents.llm.desk import Desk, clip
from sia_runner.agents.llm.templates import cell, render
from sia_runner.agents.protocol import Brief, Context
from sia_runner.records import Past

_PASTS = 20  # newest generations shown
_FILES = 60  # names shown


@dataclass(frozen=True, slots=True)
class Told:
    """The data of the prompts. `limit` is the bytes of a whole request; each long text takes a share of it."""

    context: Context
    brief: Brief
    desk: Desk
    turns: int
    limit: int

    def system(self) -> str:
        """Return the system prompt."""
        return render(
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
            "direction": directions.of(self.brief, self.context.calls_model),
            "description": self._shortened(self.context.description or self.desk.evidence.get("task.md", ""), 8),
            "files": self._files(),
        }
        if self.desk.first:
            return render("first.md.j2", **values)
        overview = self.desk.evidence.get("overview.md", "There is no overview; look at the files of evidence/.")
        history = [_past(past) for past in self.brief.history[-_PASTS:] if past.notes]
        while history and len(str(history).encode(errors="replace")) > self.limit // 8:
            history.pop(0)
        return render(
            "improve.md.j2",
            **values,
            parent=self._parent(),
            due_reason=self.desk.weights.due if self.desk.weights else "",
            overview=self._shortened(overview, 6),
            history=history,
        )

    def _shortened(self, text: str, share: int) -> str:
        return clip(text.strip(), self.limit // share)

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


def _past(past: Past) -> dict[str, Any]:
    trials = past.notes.get("trials") or []
    return {
        "n": past.n,
        "title": cell(past.title),
        "status": past.status,
        "tried": ", ".join(f"{trial['value']:.3g} ({trial['n']} questions)" for trial in trials[-8:]),
        "expected": cell(past.notes.get("expected_effect", "")),
    }
