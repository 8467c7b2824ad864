"""Stages for tests of jobs. Jobs find them by reference."""

import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from sia_runner.compute.protocol import ComputeStep
from sia_runner.wire.grants import BudgetSpent
from tests.conftest import ROOT
from tests.scripts.slurm import until


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
    return ComputeStep(key, key.rpartition("/")[2], folder / key, submitted, noted.append, noted.append, entry)


def first_time_slow(seconds: float, log: Path, value):
    """Done at once where it was begun before."""
    first = not log.exists()
    counted(log, value)
    if first:
        time.sleep(seconds)
    return value


class Odd(Exception):
    """Pickled by its message alone, and so never read back."""

    def __init__(self, first: int, second: int) -> None:
        super().__init__(f"{first} {second}")


def raises_what_cannot_travel():
    raise Odd(1, 2)


def returns_what_cannot_travel():
    return lambda: None


def where(log: Path, seconds: float, value):
    """The value, and the process, the SLURM step and the GPUs that it was made with."""
    counted(log, value)
    time.sleep(seconds)
    names = ("SLURM_JOB_ID", "SLURM_STEP_ID", "CUDA_VISIBLE_DEVICES")
    return value, os.getpid(), *(os.environ.get(name, "") for name in names)


def dies(how: int, mark: Path | None = None):
    """Takes its process with it; with a mark the first time only."""
    if mark is not None and mark.exists():
        return "done"
    if mark is not None:
        mark.touch()
    os.kill(os.getpid(), how)
    time.sleep(60)
    return "still alive"


def all_at_once(compute, folder: Path, stage, arguments: list) -> list:
    """Each on a thread of its own, as the candidates of a run; what each returned or raised."""

    def call(n: int):
        try:
            return compute.call(step(folder, f"gen_{n}/run"), stage, *arguments[n])
        except Exception as error:
            return error

    with ThreadPoolExecutor(len(arguments)) as threads:
        return list(threads.map(call, range(len(arguments))))


DRIVER = """
import json, sys
from dataclasses import replace
from pathlib import Path
from sia_runner.compute.local import Local
from sia_runner.compute.slurm import Slurm
from tests.compute import steps

compute = {"Local": Local, "Slurm": Slurm}[sys.argv[1]](**json.loads(sys.argv[2]))
folder = Path(sys.argv[3])
step = replace(steps.step(folder), note=lambda job: print(job, flush=True))
compute.call(step, steps.slow, 3.0, folder / "log", 7)
"""


def killed_driver(kind: str, settings: dict, folder: Path) -> str:
    """Kill a driver whose stage is at work for 3 s; return the id of its step."""
    command = [sys.executable, "-c", DRIVER, kind, json.dumps(settings), str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as driver:
        job = driver.stdout.readline().strip()
        until((folder / "log").exists, pause=0.02)
        driver.kill()
    return job
