"""The computed figures, group by group; every output is written from these."""

from collections.abc import Sequence
from dataclasses import dataclass

from sia_runner.report.contrasts import Contrast, contrasts
from sia_runner.report.gains import Cost, Gain, extra, gains, per_arm
from sia_runner.report.groups import Group, grouped
from sia_runner.report.paper import Row, rows
from sia_runner.report.runs import Ran


@dataclass(frozen=True, slots=True)
class Section:
    """The figures of one group."""

    group: Group
    contrasts: list[Contrast]
    rows: list[Row]
    gains: list[Gain]

    @property
    def costs(self) -> list[tuple[str, int, Cost]]:
        """Gains and costs arm by arm, then what each arm with a trainer gained above SIA-H."""
        sides = [(side.label, total) for side in self.group.sides if (total := per_arm(side, self.gains))]
        arms = [(label, runs, cost) for label, (runs, cost) in sides]
        above = [
            (f"{contrast.new.label} above {contrast.old.label}", len(contrast.pairs), extra(contrast))
            for contrast in self.contrasts
        ]
        return arms + [(label, pairs, cost) for label, pairs, cost in above if cost]

    @property
    def looks(self) -> int:
        """The number of uses of the test set in the runs of the group."""
        return sum(run.looks for run in self.group.runs)


def sections(runs: Sequence[Ran]) -> list[Section]:
    """Compute the section of each group."""
    result: list[Section] = []
    for group in grouped(runs):
        against = contrasts(group)
        result.append(Section(group, against, rows(group, against), gains(group)))
    return result
