"""Everything that is computed, group by group; every output is written from these."""

from collections.abc import Sequence
from dataclasses import dataclass

from sia_runner.report import paper
from sia_runner.report.contrasts import Contrast, contrasts
from sia_runner.report.gains import Cost, Gain, extra, gains, per_arm
from sia_runner.report.groups import Group, grouped
from sia_runner.report.runs import Ran


@dataclass(frozen=True, slots=True)
class Section:
    group: Group
    contrasts: list[Contrast]
    rows: list[paper.Row]
    gains: list[Gain]

    @property
    def costs(self) -> list[tuple[str, int, Cost]]:
        """What was gained and paid, arm by arm; then what each arm with a trainer gained above SIA-H."""
        sides = [(side.label, found) for side in self.group.sides if (found := per_arm(side, self.gains))]
        arms = [(label, runs, cost) for label, (runs, cost) in sides]
        above = [(f"{one.new.label} above {one.old.label}", len(one.pairs), extra(one)) for one in self.contrasts]
        return arms + [(label, pairs, cost) for label, pairs, cost in above if cost]

    @property
    def looks(self) -> int:
        return sum(run.looks for run in self.group.runs)


def sections(runs: Sequence[Ran]) -> list[Section]:
    found: list[Section] = []
    for group in grouped(runs):
        against = contrasts(group)
        found.append(Section(group, against, paper.rows(group, against), gains(group)))
    return found
