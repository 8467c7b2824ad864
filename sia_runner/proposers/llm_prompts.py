"""Renders the prompts of the language-model proposer and its improvement.md."""

import sys

from sia_runner.proposers.llm_workspace import ProposalWorkspace, Submission, clip_text, digest_of_files
from sia_runner.proposers.prompting import describe_parent, render_prompt, table_cell, task_facts
from sia_runner.proposers.protocol import Brief, ProposerContext

_CELL = 200  # characters
_PASTS = 20  # newest generations shown
_FILES = 60  # names shown


def system_prompt(context: ProposerContext, brief: Brief, workspace: ProposalWorkspace, turns: int) -> str:
    """Return the system prompt of a proposal of at most `turns` model calls."""
    extends = brief.parent is not None or any(name.startswith("harness/") for name in workspace.evidence)
    return render_prompt(
        "llm/system.md.j2",
        **task_facts(context, brief),
        python=f"{sys.version_info.major}.{sys.version_info.minor}",
        start="the parent's harness" if extends else "the task's reference harness",
        weights=workspace.weights,
        trials=workspace.trials,
        earlier=bool(workspace.candidates),
        questions=workspace.questions,
        turns=turns,
    )


def task_prompt(context: ProposerContext, brief: Brief, workspace: ProposalWorkspace, limit: int) -> str:
    """Return the first user message: the task, the files, and for an improvement the history.

    `limit` is the bytes of a whole request; each long text takes a share of it.
    """
    paths = sorted((f"- `{path}`" for path in workspace.under("")), key=lambda path: path.count("/"))  # top first
    more = [f"- and {len(paths) - _FILES} more"] if len(paths) > _FILES else []
    description = context.description or workspace.evidence.get("task.md", "")
    values = task_facts(context, brief) | {
        "description": clip_text(description.strip(), limit // 8),
        "files": clip_text("\n".join(paths[:_FILES] + more), limit // 8),
    }
    if workspace.first:
        return render_prompt("llm/first.md.j2", **values)
    history = [
        {
            "n": past.n,
            "title": table_cell(past.title, _CELL),
            "status": past.status,
            "tried": ", ".join(
                f"{trial['value']:.3g} ({trial['n']} questions)" for trial in (past.notes.get("trials") or [])[-8:]
            ),
            "expected": table_cell(past.notes.get("expected_effect", ""), _CELL),
        }
        for past in brief.history[-_PASTS:]
        if past.notes
    ]
    while history and len(str(history).encode(errors="replace")) > limit // 8:
        history.pop(0)
    restart = "No earlier harness could be scored, so you start from the reference again."
    overview = workspace.evidence.get("overview.md", "There is no overview; look at the files of evidence/.")
    return render_prompt(
        "llm/improve.md.j2",
        **values,
        parent=restart if brief.parent is None else describe_parent(brief, "You extend"),
        due_reason=workspace.weights.due_reason if workspace.weights else "",
        overview=clip_text(overview.strip(), limit // 6),
        history=history,
    )


def improvement_text(brief: Brief, workspace: ProposalWorkspace, submission: Submission) -> str:
    """Return the text of improvement.md for a submission."""
    before, after = workspace.draft.start, workspace.draft.files
    changes = {
        "new": after.keys() - before.keys(),
        "changed": {name for name in after.keys() & before.keys() if after[name] != before[name]},
        "deleted": before.keys() - after.keys(),
    }
    return render_prompt(
        "llm/improvement.md.j2",
        n=brief.n,
        submission=submission,
        changes=[f"`{name}`: {kind}" for kind, names in changes.items() for name in sorted(names)],
        tried=workspace.tried,
        draft_digest=digest_of_files(after),
        cell_length=_CELL,
    )
