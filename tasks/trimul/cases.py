"""The shapes of the public competition (gpu-mode, problem `trimul`): 18 that must be right, 7 that are timed.

Small ones stand for them where there is no GPU: Triton's interpreter runs a block at a time, in Python.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace

HIDDEN = 128


@dataclass(frozen=True, slots=True)
class Case:
    """Input [batch, n, n, dim], mask [batch, n, n]; `masked`: half of the mask is zero."""

    n: int
    batch: int
    dim: int
    masked: bool
    distribution: str  # normal | cauchy
    hidden: int = HIDDEN

    @property
    def name(self) -> str:
        return f"{self.n}x{self.batch}x{self.dim} {self.distribution}{' masked' if self.masked else ''}"

    def columns(self) -> dict[str, object]:
        return asdict(self)

    @staticmethod
    def of(row: Mapping[str, str]) -> "Case":
        """From the columns of a question."""
        numbers = {name: int(row[name]) for name in ("n", "batch", "dim", "hidden")}
        return Case(**numbers, masked=row["masked"] == "True", distribution=row["distribution"])


CORRECT = (
    Case(32, 1, 128, False, "normal"),
    Case(32, 1, 128, True, "normal"),
    Case(64, 2, 256, False, "normal"),
    Case(64, 2, 256, True, "normal"),
    Case(128, 1, 768, False, "normal"),
    Case(256, 1, 128, False, "normal"),
    Case(256, 1, 128, True, "normal"),
    Case(768, 2, 128, False, "normal"),
    Case(1024, 1, 384, True, "normal"),
    Case(1024, 1, 768, False, "normal"),
    Case(1024, 1, 768, True, "normal"),
    Case(32, 1, 128, False, "cauchy"),
    Case(64, 2, 256, False, "cauchy"),
    Case(128, 1, 768, False, "cauchy"),
    Case(256, 1, 128, False, "cauchy"),
    Case(768, 2, 128, False, "cauchy"),
    Case(1024, 1, 384, True, "cauchy"),
    Case(1024, 1, 768, True, "cauchy"),
)
TIMED = (
    Case(256, 2, 128, False, "normal"),
    Case(768, 1, 128, False, "cauchy"),
    Case(256, 2, 384, True, "normal"),
    Case(512, 1, 128, False, "normal"),
    Case(1024, 1, 128, False, "cauchy"),
    Case(768, 1, 384, True, "normal"),
    Case(1024, 1, 384, False, "normal"),
)

# Some are no multiple of any block, as none of the public shapes is: a kernel that forgets its masks is found.
_LENGTH = {32: 7, 64: 9, 128: 11, 256: 13, 768: 15, 1024: 17}
_WIDTH = {128: 32, 256: 48, 384: 64, 768: 96}


def small(case: Case) -> Case:
    """The same case for the interpreter: a fifth to a sixtieth of the length, a quarter to an eighth of the width."""
    return replace(case, n=_LENGTH[case.n], dim=_WIDTH[case.dim], hidden=32)
