"""Which of the measured variants is proposed: the best on dev, or within noise of it a simpler or much faster one."""

from dataclasses import dataclass

from sia_runner.agents.memory import Measured, Memory, noise

_MUCH_FASTER = 0.5  # of the seconds; smaller differences are the machine's mood


@dataclass(frozen=True, slots=True)
class Selected:
    chosen: Measured
    best: Measured  # by dev alone
    baseline: float | None  # the incumbent's dev value, where known

    @property
    def doubt(self) -> float:
        """Standard error of the difference to the incumbent."""
        trial = self.chosen.trial
        return 0.0 if self.baseline is None else noise(trial.value, self.baseline, trial.n)

    @property
    def gain(self) -> float | None:
        """Difference to the incumbent on dev, in units of the metric."""
        return None if self.baseline is None else self.chosen.trial.value - self.baseline


def select(memory: Memory, rung: float, baseline: float | None) -> Selected | None:
    """None when nothing that ran is left to propose."""
    waiting = memory.open(rung)
    if not waiting:
        return None
    best = waiting[0]
    frugal = [m for m in waiting if _as_good(memory, m, best, baseline) and _cheaper(memory, m, best)]
    return Selected(frugal[0] if frugal else best, best, baseline)


def hopeless(memory: Memory, selected: Selected) -> bool:
    """Is it worse than the incumbent by more than noise?"""
    return selected.gain is not None and memory.sign * selected.gain < -selected.doubt


def _as_good(memory: Memory, one: Measured, best: Measured, baseline: float | None) -> bool:
    if baseline is not None and memory.merit(one) <= memory.sign * baseline:
        return False  # being simple is no reason to fall behind the incumbent
    return memory.merit(best) - memory.merit(one) < noise(one.trial.value, best.trial.value, best.trial.n)


def _cheaper(memory: Memory, one: Measured, best: Measured) -> bool:
    return memory.order(one) < memory.order(best) or one.trial.seconds < _MUCH_FASTER * best.trial.seconds
