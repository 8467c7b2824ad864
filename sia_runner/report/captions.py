"""What has to stand under a table of figures: what they are, over what, and what is missing."""

from collections.abc import Sequence

from sia_runner.report.groups import Group
from sia_runner.report.runs import Ran
from sia_runner.report.sections import Section


def captions(sections: Sequence[Section], runs: Sequence[Ran]) -> list[str]:
    """Sentences."""
    said = ["Scores on test, scored once at the end of each run: means over seeds ± standard deviation between them."]
    said += ["W+H − H: mean over the seeds that both have, with Student's 95% interval."]
    said += [_of(section) for section in sections]
    said += ["Better: the 95% intervals over seeds (Student) and over questions both leave zero out; otherwise a tie."]
    troubled = [run for run in runs if run.status != "completed"]
    if troubled:
        by_status = dict.fromkeys(run.status for run in troubled)
        counts = ", ".join(f"{sum(run.status == name for run in troubled)} {name}" for name in by_status)
        said.append(f"Of {len(runs)} runs {len(troubled)} did not complete ({counts}).")
    return said


def _of(section: Section) -> str:
    group = section.group
    if group.some.selected_on_test:
        return f"{group.label}: selected on test, since the task cannot be split."
    n = next((run.final["n"] for run in group.runs if run.final), None)
    if n is None:
        return " ".join([f"{group.label}: no run has a test score.", *published(group)])
    looked = f"{group.label}: {n} test questions, looked at {section.looks} times in {len(group.runs)} runs."
    return " ".join([looked, *standings(group), *published(group)])


def standings(group: Group) -> list[str]:
    """What official graders and leaderboards say of the best candidates, where the task has any."""
    return [f"{run.name}: {'; '.join(run.standing)}." for run in group.runs if run.standing]


def published(group: Group) -> list[str]:
    """What is known of the figures that the task declares, where it declares any."""
    given = group.published
    if not given:
        return []
    return [
        f"Published: {given.get('source', 'no source given')}; protocol differs: {given.get('protocol', 'not known')}."
    ]
