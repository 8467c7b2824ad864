"""The kinds of tunable constant: a number in a range, or one of some choices."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

Value = bool | int | float | str | None
_DIGITS = 3  # significant digits of a float: finer steps only make diffs harder to read


@dataclass(frozen=True, slots=True)
class Number:
    """`low` to `high`, both included; whole when both are ints. `log` moves by factors instead of differences."""

    low: float
    high: float
    default: float
    log: bool = False
    says: str = ""

    @property
    def whole(self) -> bool:
        return isinstance(self.low, int) and isinstance(self.high, int)

    def values(self) -> Sequence[Value] | None:
        """All allowed values; None when they cannot be listed."""
        return range(int(self.low), int(self.high) + 1) if self.whole else None

    def holds(self, value: Any) -> bool:
        return type(value) is (int if self.whole else float) and self.low <= value <= self.high

    def agrees(self, literal: Value) -> bool:
        """Is this literal of a program the default? 1 stands for 1.0 in a range of floats."""
        return literal == self.default and type(literal) in ((int,) if self.whole else (int, float))

    def sample(self, rng: Random) -> Value:
        return self._at(rng.random())

    def nudge(self, value: Any, rng: Random, width: float) -> Value:
        """A value near `value`: a normal step of `width` times the range, at least one when whole."""
        moved = self._at(min(1.0, max(0.0, self._place(value) + rng.gauss(0, width))))
        if moved == value and self.whole:
            steps = [v for v in (int(value) - 1, int(value) + 1) if self.low <= v <= self.high]
            return rng.choice(steps)
        return moved

    def _place(self, value: float) -> float:
        low, high = self._scaled(self.low), self._scaled(self.high)
        return (self._scaled(value) - low) / (high - low)

    def _at(self, place: float) -> float:
        low, high = self._scaled(self.low), self._scaled(self.high)
        scaled = low + place * (high - low)
        return self.tidy(math.exp(scaled) if self.log else scaled)

    def tidy(self, value: float) -> float:
        """Rounded as its kind is written, never out of the range."""
        if self.whole:
            return min(int(self.high), max(int(self.low), round(value)))
        return min(float(self.high), max(float(self.low), float(f"{value:.{_DIGITS}g}")))

    def _scaled(self, value: float) -> float:
        return math.log(value) if self.log else float(value)


@dataclass(frozen=True, slots=True)
class Choice:
    """One of at least two plain values."""

    choices: tuple[Value, ...]
    default: Value
    says: str = ""

    def values(self) -> Sequence[Value] | None:
        return self.choices

    def holds(self, value: Any) -> bool:
        return any(same(value, choice) for choice in self.choices)

    def agrees(self, literal: Value) -> bool:
        return same(literal, self.default)

    def sample(self, rng: Random) -> Value:
        return rng.choice(self.choices)

    def nudge(self, value: Value, rng: Random, width: float) -> Value:  # a choice has no near and far
        return rng.choice([other for other in self.choices if not same(other, value)])


Constant = Number | Choice


def same(one: Value, other: Value) -> bool:
    """Equal as Python literals: True is not 1 here, 1 is not 1.0."""
    return type(one) is type(other) and one == other
