"""What the final test will need, by what the harnesses to be tested were measured to spend."""

from sia_runner.config import Experiment
from sia_runner.ground.history import Finished, finished, incumbent
from sia_runner.ground.journal import Record
from sia_runner.records import Usage
from sia_runner.rundir import RunDir

_MARGIN = 1.25  # a question of the test set may be longer than those measured


class Reserve:
    """Called by the ledger before a call is let through: what must be left for the test runs of incumbent and baseline.

    Zero until a generation was scored: until then there is nothing to test, and `budget.reserve` alone holds.
    """

    def __init__(self, config: Experiment, run: RunDir) -> None:
        self._config, self._run = config, run
        self._read = -1  # bytes of the journal that the answer is based on
        self._needed = Usage()

    def __call__(self) -> Usage:
        journal = self._run.journal
        size = journal.stat().st_size if journal.is_file() else 0
        if size != self._read:
            self._needed, self._read = self._measure(finished(Record(journal))) if size else Usage(), size
        return self._needed

    def _measure(self, generations: list[Finished]) -> Usage:
        from sia_runner.rooms import rooms

        task = rooms(self._config).task
        if not task.has_test:
            return Usage()
        asked = sum(len(round_.questions) for round_ in task.rounds("test"))
        measured = sum(len(round_.questions) for round_ in task.rounds("select"))
        best = incumbent(generations)
        to_test = {best, generations[0].n} if best is not None else set()
        factor = _MARGIN * asked / max(1, measured)
        return sum((_scaled(g, factor) for g in generations if g.n in to_test), Usage())


def _scaled(generation: Finished, factor: float) -> Usage:
    spent = generation.steps.get("run", {}).get("usage")
    if not spent:
        return Usage()
    return Usage(spent["usd"] * factor, int(spent["tokens"] * factor), int(spent["calls"] * factor) + 1)
