"""Tasks for the workers of test_pool.py."""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


class Odd(Exception):
    """Pickled by its message alone, and so never read back."""

    def __init__(self, first: int, second: int) -> None:
        super().__init__(f"{first} {second}")


def where(value: int) -> tuple[int, int]:
    return value, os.getpid()


def divide(dividend: int, divisor: int) -> float:
    return dividend / divisor


def raise_what_cannot_travel() -> None:
    raise Odd(1, 2)


def return_what_cannot_travel() -> object:
    return lambda: None


def note(log: Path, line: str, seconds: float = 0.0) -> str:
    time.sleep(seconds)
    with log.open("a") as stream:
        stream.write(line + "\n")
    return line


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def die_the_first_time(mark: Path, how: int) -> str:
    if mark.exists():
        return "done"
    mark.touch()
    os.kill(os.getpid(), how)
    time.sleep(60)
    return "still alive"


def slow_the_first_time(mark: Path, log: Path) -> str:
    """Slower than any test; at its second attempt it is done at once."""
    first = not mark.exists()
    if first:
        mark.write_text(str(os.getpid()))
        time.sleep(15)
    return note(log, "first" if first else "second")


def carry_out(stage: Callable[..., Any], *args: Any) -> Any:
    """Run a stage as in_job does, without an experiment."""
    return stage(*args)
