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
    """A tunable number from `low` to `high`, both included.

    It is an integer when both are ints. `log` moves by factors instead of differences. `says` describes it.
    """

    low: float
    high: float
    default: float
    log: bool = False
    says: str = ""

    @property
    def is_integer(self) -> bool:
        """True when the constant is an integer."""
        return isinstance(self.low, int) and isinstance(self.high, int)

    def values(self) -> Sequence[Value] | None:
        """Return all allowed values; None when they cannot be listed."""
        return range(int(self.low), int(self.high) + 1) if self.is_integer else None

    def holds(self, value: Any) -> bool:
        """Return whether `value` has the right type and lies in the range."""
        return type(value) is (int if self.is_integer else float) and self.low <= value <= self.high

    def agrees(self, literal: Value) -> bool:
        """Return whether a program's literal is the default; 1 stands for 1.0 in a range of floats."""
        return literal == self.default and type(literal) in ((int,) if self.is_integer else (int, float))

    def sample(self, rng: Random) -> Value:
        """Draw a value evenly, on the log scale where `log` is set."""
        return self._at(rng.random())

    def nudge(self, value: Any, rng: Random, width: float) -> Value:
        """Return a value near `value`: a normal step of `width` times the range, at least 1 for integers."""
        moved = self._at(min(1.0, max(0.0, self._position(value) + rng.gauss(0, width))))
        if moved == value and self.is_integer:
            steps = [v for v in (int(value) - 1, int(value) + 1) if self.low <= v <= self.high]
            return rng.choice(steps)
        return moved

    def _position(self, value: float) -> float:
        low, high = self._scaled(self.low), self._scaled(self.high)
        return (self._scaled(value) - low) / (high - low)

    def _at(self, position: float) -> float:
        low, high = self._scaled(self.low), self._scaled(self.high)
        scaled = low + position * (high - low)
        return self.tidy(math.exp(scaled) if self.log else scaled)

    def tidy(self, value: float) -> float:
        """Round a value as its kind is written and keep it inside the range."""
        if self.is_integer:
            return min(int(self.high), max(int(self.low), round(value)))
        return min(float(self.high), max(float(self.low), float(f"{value:.{_DIGITS}g}")))

    def _scaled(self, value: float) -> float:
        return math.log(value) if self.log else float(value)


@dataclass(frozen=True, slots=True)
class Choice:
    """A tunable constant with at least two plain values to choose from."""

    choices: tuple[Value, ...]
    default: Value
    says: str = ""

    def values(self) -> Sequence[Value] | None:
        """Return all choices."""
        return self.choices

    def holds(self, value: Any) -> bool:
        """Return whether `value` is one of the choices."""
        return any(same(value, choice) for choice in self.choices)

    def agrees(self, literal: Value) -> bool:
        """Return whether a program's literal is the default."""
        return same(literal, self.default)

    def sample(self, rng: Random) -> Value:
        """Draw a choice evenly."""
        return rng.choice(self.choices)

    def nudge(self, value: Value, rng: Random, width: float) -> Value:  # choices have no distance
        """Draw one of the other choices: choices have no distance."""
        return rng.choice([other for other in self.choices if not same(other, value)])


Constant = Number | Choice


def same(value: Value, other: Value) -> bool:
    """Return whether two Python literals are equal in type and value: True is not 1, and 1 is not 1.0."""
    return type(value) is type(other) and value == other
