"""Implements successive halving over all generations: the best variants at a rung move up, old or new."""

from collections.abc import Sequence
from itertools import pairwise

from sia_runner.agents.memory import Measured, Memory, noise
from sia_runner.agents.protocol import Workbench
from sia_runner.agents.space import Space, Variant

_CLEARLY = 6.0  # standard errors; many, because little training data flatters simple recipes


class Halving:
    """Successive halving: variants are measured with growing shares of the training data (rungs)."""

    def __init__(
        self, space: Space, entry: str, rungs: Sequence[float], keep: float, questions: int | None, bench: Workbench
    ) -> None:
        self._space, self._entry, self._bench = space, entry, bench
        self._rungs, self._keep, self._questions = rungs, keep, questions

    def climb(self, pool: Sequence[Variant], places: int, memory: Memory) -> list[Measured]:
        """Measure `pool` on the first rung, then the best `keep` share of `places` on each next rung, one batch each.

        `pool` holds variants that were never tried. Returns the new trials, which are added to `memory` too.
        """
        trials = self._measure(pool, self._rungs[0], memory)
        for below, rung in pairwise(self._rungs):
            places = max(1, int(self._keep * places + 1e-9))
            trials += self._measure(self._promoted(memory, below, rung, places), rung, memory)
        return trials

    def _promoted(self, memory: Memory, below: float, rung: float, places: int) -> list[Variant]:
        """Return the best variants below a rung; one place goes to another recipe unless it is clearly worse."""
        waiting = [m for m in memory.unproposed(below) if memory.get(m.variant, rung) is None]
        chosen = waiting[:places]
        others = [m for m in waiting if m.variant.recipe not in self._settled(memory, rung, chosen[:1])]
        spare = len(chosen) > 1 or memory.rejections % 2 == 1  # a single place is for another recipe every other time
        if spare and others and not _clearly_worse(memory, others[0], chosen[0]):
            chosen[-1] = others[0]
        return [m.variant for m in chosen]

    def _settled(self, memory: Memory, rung: float, chosen: Sequence[Measured]) -> set[str]:
        """Return recipes that need no reserved place: measured at this rung, or after a rejection the incumbent's."""
        leading = {m.variant.recipe for m in chosen}
        if memory.rejections and memory.incumbent:
            return leading | {memory.incumbent.recipe}
        return leading | {m.variant.recipe for m in memory.trials_at(rung)}

    def _measure(self, pool: Sequence[Variant], rung: float, memory: Memory) -> list[Measured]:
        if not pool:
            return []
        batch = [{self._entry: self._space.program(variant)} for variant in pool]
        results = self._bench.try_out(batch, share=rung, questions=self._questions)
        measured = [Measured(variant, rung, trial) for variant, trial in zip(pool, results, strict=True)]
        memory.add(measured)
        return measured


def _clearly_worse(memory: Memory, candidate: Measured, best: Measured) -> bool:
    doubt = _CLEARLY * noise(candidate.trial.value, best.trial.value, best.trial.n)
    return memory.merit(best) - memory.merit(candidate) > doubt > 0
