"""Selects the variant to propose: the best on dev, or a simpler or much faster one within noise of it."""

from dataclasses import dataclass

from sia_runner.agents.memory import Measured, Memory, noise

_MUCH_FASTER = 0.5  # share of the seconds; smaller differences are noise of the machine


@dataclass(frozen=True, slots=True)
class Selected:
    """The variant selected for proposal and what it is compared with."""

    chosen: Measured
    best: Measured  # by dev alone
    baseline: float | None  # the incumbent's dev value, where known

    @property
    def doubt(self) -> float:
        """The standard error of the difference to the incumbent."""
        trial = self.chosen.trial
        return 0.0 if self.baseline is None else noise(trial.value, self.baseline, trial.n)

    @property
    def gain(self) -> float | None:
        """The difference to the incumbent on dev, in units of the metric."""
        return None if self.baseline is None else self.chosen.trial.value - self.baseline


def select(memory: Memory, rung: float, baseline: float | None) -> Selected | None:
    """Return the variant to propose; None when nothing that ran is left."""
    waiting = memory.unproposed(rung)
    if not waiting:
        return None
    best = waiting[0]
    frugal = [m for m in waiting if _as_good(memory, m, best, baseline) and _cheaper(memory, m, best)]
    return Selected(frugal[0] if frugal else best, best, baseline)


def hopeless(memory: Memory, selected: Selected) -> bool:
    """Return whether the selected variant is worse than the incumbent by more than noise."""
    return selected.gain is not None and memory.sign * selected.gain < -selected.doubt


def _as_good(memory: Memory, measured: Measured, best: Measured, baseline: float | None) -> bool:
    if baseline is not None and memory.merit(measured) <= memory.sign * baseline:
        return False  # a simpler variant must still beat the incumbent
    return memory.merit(best) - memory.merit(measured) < noise(measured.trial.value, best.trial.value, best.trial.n)


def _cheaper(memory: Memory, measured: Measured, best: Measured) -> bool:
    return memory.order(measured) < memory.order(best) or measured.trial.seconds < _MUCH_FASTER * best.trial.seconds
