"""Writes gen_<n>/improvement.md: the change, the reasons, the trials, the expectation."""

from collections.abc import Mapping

from sia_runner.agents.llm.desk import Desk, Submitted
from sia_runner.agents.llm.draft import digest
from sia_runner.agents.llm.templates import cell, render
from sia_runner.agents.markdown import plus_minus
from sia_runner.agents.protocol import Brief


def improvement(brief: Brief, desk: Desk, submission: Submitted) -> str:
    """Return the text of improvement.md for a submission."""
    draft_digest = digest(desk.draft.files)
    tried = [
        {
            "proposed": tried.digest == draft_digest,
            "dev": plus_minus(tried.trial.value, tried.trial.n),
            "n": tried.trial.n,
            "seconds": f"{tried.trial.seconds:.1f}",
            "note": cell(tried.trial.failure),
        }
        for tried in desk.tried
    ]
    return render(
        "improvement.md.j2",
        n=brief.n,
        title=submission.title,
        algorithm=submission.algorithm,
        changes=_changes(desk.draft.start, desk.draft.files),
        rationale=submission.rationale,
        expected_effect=submission.expected_effect,
        tried=tried,
    )


def _changes(before: Mapping[str, str], after: Mapping[str, str]) -> list[str]:
    kinds = (
        ("new", after.keys() - before.keys()),
        ("changed", {name for name in after.keys() & before.keys() if after[name] != before[name]}),
        ("deleted", before.keys() - after.keys()),
    )
    return [f"`{name}`: {kind}" for kind, names in kinds for name in sorted(names)]
