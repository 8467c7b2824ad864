"""The budget reserved for the final test, estimated from what the harnesses to be tested spent so far."""

from sia_runner.config import Experiment
from sia_runner.ground.history import Finished, finished, incumbent
from sia_runner.ground.journal import Record
from sia_runner.records import Usage
from sia_runner.rundir import RunDir

_MARGIN = 1.25  # a question of the test set may be longer than those measured


class Reserve:
    """The usage reserved for the test runs of incumbent and baseline; the ledger calls it before each model call.

    It is zero until a generation is scored: until then there is nothing to test, and only `budget.reserve` applies.
    """

    def __init__(self, config: Experiment, run: RunDir) -> None:
        self._config, self._run = config, run
        self._journal_size = -1  # bytes of the journal that `_needed` is based on
        self._needed = Usage()

    def __call__(self) -> Usage:
        journal = self._run.journal
        size = journal.stat().st_size if journal.is_file() else 0
        if size != self._journal_size:
            self._needed, self._journal_size = self._measure(finished(Record(journal))) if size else Usage(), size
        return self._needed

    def _measure(self, generations: list[Finished]) -> Usage:
        from sia_runner.rooms import rooms

        task = rooms(self._config).task
        if not task.has_test:
            return Usage()
        test_questions = sum(len(round_.questions) for round_ in task.rounds("test"))
        select_questions = sum(len(round_.questions) for round_ in task.rounds("select"))
        best = incumbent(generations)
        to_test = {best, generations[0].n} if best is not None else set()
        factor = _MARGIN * test_questions / max(1, select_questions)
        return sum((_scaled(g, factor) for g in generations if g.n in to_test), Usage())


def _scaled(generation: Finished, factor: float) -> Usage:
    usage = generation.steps.get("run", {}).get("usage")
    if not usage:
        return Usage()
    return Usage(usage["usd"] * factor, int(usage["tokens"] * factor), int(usage["calls"] * factor) + 1)
