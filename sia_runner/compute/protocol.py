"""What the loop needs of a place to compute. Implementation: `inline`."""

from collections.abc import Callable, Iterable
from typing import ParamSpec, Protocol, TypeVar

P = ParamSpec("P")
T = TypeVar("T")
R = TypeVar("R")


class Compute(Protocol):
    def call(self, stage: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Run one stage to its end and return its result."""
        ...

    def map(self, work: Callable[[T], R], items: Iterable[T]) -> list[R]:
        """Independent pieces of one stage, as many at once as configured; results in the order of `items`."""
        ...
