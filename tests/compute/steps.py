"""Stages for tests of jobs. Jobs find them by reference."""

import time
from pathlib import Path

from sia_runner.compute.protocol import ComputeStep
from sia_runner.wire.grants import BudgetSpent


def entry(stage, *args):
    """Run a stage in a job, where nothing has to be prepared."""
    return stage(*args)


def counted(log: Path, value):
    """Leaves a line for each time that it is carried out."""
    with log.open("a") as stream:
        stream.write("done\n")
    return value


def slow(seconds: float, log: Path, value):
    with log.open("a") as stream:
        stream.write(f"{time.time()}\n")
    time.sleep(seconds)
    with log.open("a") as stream:
        stream.write(f"{time.time()}\n")
    return value


def spends_all():
    raise BudgetSpent("generation", "all of it is spent")


def step(folder: Path, key: str = "gen_1/run", submitted: str | None = None, notes: list | None = None) -> ComputeStep:
    noted = [] if notes is None else notes
    return ComputeStep(key, "run", folder / key, submitted, noted.append, noted.append, entry)


def first_time_slow(seconds: float, log: Path, value):
    """Done at once where it was begun before."""
    first = not log.exists()
    counted(log, value)
    if first:
        time.sleep(seconds)
    return value
