"""The sentences below a table of figures: what they are, over what, and what is missing."""

from collections.abc import Sequence

from sia_runner.report.groups import Group
from sia_runner.report.runs import Ran
from sia_runner.report.sections import Section


def captions(sections: Sequence[Section], runs: Sequence[Ran]) -> list[str]:
    """Return the sentences below the table of a paper."""
    sentences = [
        "Scores on test, scored once at the end of each run: means over seeds ± standard deviation between them."
    ]
    sentences += ["W+H − H: mean over the seeds that both have, with Student's 95% interval."]
    sentences += [_group_sentence(section) for section in sections]
    sentences += [
        "Better: the 95% intervals over seeds (Student) and over questions both leave zero out; otherwise a tie."
    ]
    incomplete = [run for run in runs if run.status != "completed"]
    if incomplete:
        by_status = dict.fromkeys(run.status for run in incomplete)
        counts = ", ".join(f"{sum(run.status == name for run in incomplete)} {name}" for name in by_status)
        sentences.append(f"Of {len(runs)} runs {len(incomplete)} did not complete ({counts}).")
    return sentences


def _group_sentence(section: Section) -> str:
    group = section.group
    if group.sample_run.selected_on_test:
        return f"{group.label}: selected on test, since the task cannot be split."
    n = next((run.final["n"] for run in group.runs if run.final), None)
    if n is None:
        return " ".join([f"{group.label}: no run has a test score.", *published(group)])
    looked = f"{group.label}: {n} test questions, looked at {section.looks} times in {len(group.runs)} runs."
    return " ".join([looked, *standings(group), *published(group)])


def standings(group: Group) -> list[str]:
    """Return what official graders and leaderboards say of the best candidates of a group."""
    return [f"{run.name}: {'; '.join(run.standing)}." for run in group.runs if run.standing]


def published(group: Group) -> list[str]:
    """Return a sentence on the published figures that the task declares, in a list that may be empty."""
    declared = group.published
    if not declared:
        return []
    source, protocol = declared.get("source", "no source given"), declared.get("protocol", "not known")
    return [f"Published: {source}; protocol differs: {protocol}."]
