"""Successive halving with a memory: the best of everything that waits at a rung moves up, old or new."""

from collections.abc import Sequence
from itertools import pairwise

from sia_runner.agents.memory import Measured, Memory, noise
from sia_runner.agents.protocol import Workbench
from sia_runner.agents.space import Space, Variant

_CLEARLY = 6.0  # standard errors; many, because little training data flatters simple recipes


class Halving:
    def __init__(
        self, space: Space, entry: str, rungs: Sequence[float], keep: float, questions: int | None, bench: Workbench
    ) -> None:
        self._space, self._entry, self._bench = space, entry, bench
        self._rungs, self._keep, self._questions = rungs, keep, questions

    def climb(self, pool: Sequence[Variant], places: int, memory: Memory) -> list[Measured]:
        """Measure `pool` on the first rung, then the best `keep` share of `places` on each next one, one batch a rung.

        `pool` holds variants that were never tried. Returns the new trials; memory has them too.
        """
        made = self._measure(pool, self._rungs[0], memory)
        for below, rung in pairwise(self._rungs):
            places = max(1, int(self._keep * places + 1e-9))
            made += self._measure(self._promoted(memory, below, rung, places), rung, memory)
        return made

    def _promoted(self, memory: Memory, below: float, rung: float, places: int) -> list[Variant]:
        """The best that wait; one of several places is for another recipe, if that is not clearly worse."""
        waiting = [m for m in memory.open(below) if memory.get(m.variant, rung) is None]
        chosen = waiting[:places]
        others = [m for m in waiting if m.variant.recipe not in self._settled(memory, rung, chosen[:1])]
        spare = len(chosen) > 1 or memory.rejections % 2 == 1  # a single place is for another recipe every other time
        if spare and others and not _clearly_worse(memory, others[0], chosen[0]):
            chosen[-1] = others[0]
        return [m.variant for m in chosen]

    def _settled(self, memory: Memory, rung: float, chosen: Sequence[Measured]) -> set[str]:
        """Recipes that need no place kept for them: measured up there, or after a rejection only the incumbent's."""
        leading = {m.variant.recipe for m in chosen}
        if memory.rejections and memory.incumbent:
            return leading | {memory.incumbent.recipe}
        return leading | {m.variant.recipe for m in memory.at(rung)}

    def _measure(self, pool: Sequence[Variant], rung: float, memory: Memory) -> list[Measured]:
        if not pool:
            return []
        batch = [{self._entry: self._space.program(variant)} for variant in pool]
        trials = self._bench.try_out(batch, share=rung, questions=self._questions)
        made = [Measured(variant, rung, trial) for variant, trial in zip(pool, trials, strict=True)]
        memory.add(made)
        return made


def _clearly_worse(memory: Memory, one: Measured, best: Measured) -> bool:
    doubt = _CLEARLY * noise(one.trial.value, best.trial.value, best.trial.n)
    return memory.merit(best) - memory.merit(one) > doubt > 0
