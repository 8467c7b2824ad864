"""One update by several processes of this machine. Each has a copy of the base, on a GPU of its own where there are
GPUs; it rolls out its share of the questions and computes its share of the gradients.

python -m torch.distributed.run … -m sia_runner.weights.together FOLDER      one of them, started by learn_together
"""

import os
import pickle
import subprocess
import sys
import threading
import traceback
from collections.abc import MutableMapping
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from sia_runner.compute import outcome
from sia_runner.compute.outcome import RETURNED, Outcome
from sia_runner.config import Experiment
from sia_runner.run import in_job
from sia_runner.rundir import RunDir, remove
from sia_runner.schema.training import Algorithm
from sia_runner.weights.learning import Result, learn

_LEAVE = 10.0  # seconds for the processes to end when they are told to


def learn_together(config: Experiment, run: RunDir, n: int, parent: int, algorithm: Algorithm) -> Result:
    """`learn` by `algorithm.processes` processes. What one of them raises is raised here; what goes wrong in one ends
    them all. Killed, or left by this process, they end too."""
    missing = _missing(config, algorithm.processes)
    if missing:
        return {"fault": f"{algorithm.name}: {missing}", "unscored": True}
    here = run.generation(n)
    remove(here.processes)
    homes = [here.processes / str(rank) for rank in range(algorithm.processes)]
    for home in homes:
        home.mkdir(parents=True)
    (here.processes / "call.pkl").write_bytes(pickle.dumps((config, run, n, parent, algorithm)))
    code = _launched(here.processes, algorithm.processes)
    found = [end for home in homes if (end := outcome.read(home))]
    result = _result(found, algorithm, f"exit code {code}, see {here.processes.name}/log in {here.path.name}")
    if not result["fault"]:
        remove(here.processes)
    return result


def _missing(config: Experiment, processes: int) -> str:
    """Why this machine has no place for so many; empty where it has."""
    import torch

    seen = 0 if config.target_agent.policy.device == "cpu" else torch.cuda.device_count()
    if not 0 < seen < processes:
        return ""
    return f"trainer.processes={processes} needs a GPU for each of them; this machine shows {seen}"


def _launched(folder: Path, processes: int) -> int:
    """Exit code of all of them. Each reads from us, and ends where we do not hold the other end any more."""
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    command = [sys.executable, *launcher, "-m", "sia_runner.weights.together", str(folder)]
    environment = {"OMP_NUM_THREADS": "1", **os.environ}
    with (folder / "log").open("wb") as log:
        started = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=log, stderr=log, env=environment)
    try:
        return started.wait()
    finally:
        _end(started)


def _end(started: "subprocess.Popen[bytes]") -> None:
    if started.stdin:
        started.stdin.close()
    with suppress(subprocess.TimeoutExpired):
        started.wait(_LEAVE)
    started.kill()
    started.wait()


def _result(found: list[Outcome], algorithm: Algorithm, otherwise: str) -> Result:
    """Of the first that raised, else of the first with a fault, else of the first: the one that wrote the adapter."""
    raised = [end for end in found if end.kind != RETURNED]
    lost = len(found) < algorithm.processes  # killed, or ended because another one failed
    for end in raised:
        if not (lost and issubclass(end.value[0], RuntimeError)):  # what torch raises where another one is gone
            return end.result()
    returned: list[Result] = [end.result() for end in found if end not in raised]
    faults = [result for result in returned if result["fault"]]
    if faults:
        return faults[0]
    if lost:
        return {"fault": f"{algorithm.name}: a process of the training was lost: {otherwise}", "unscored": True}
    return returned[0]


def main(folder: Path) -> int:
    """One of the processes. Not zero where the others must not wait for it."""
    _end_with(sys.stdin.buffer)
    rank = int(os.environ["RANK"])
    _take_gpu(os.environ, int(os.environ["LOCAL_RANK"]))
    config, run, n, parent, algorithm = pickle.loads((folder / "call.pkl").read_bytes())  # noqa: S301 - our own file
    try:
        end = Outcome(RETURNED, in_job.carry_out(learn, config, run, n, parent, algorithm, rank))
    except BaseException as error:  # noqa: BLE001 - whoever waits decides what it means
        traceback.print_exc()
        end = outcome.raised(error)
    outcome.write(folder / str(rank), end)
    return 0 if end.kind == RETURNED and not end.value["fault"] else 1


def _end_with(stream: IO[bytes]) -> None:
    """A thread that ends this process at once when the other end is closed."""

    def watch() -> None:
        stream.read()
        os._exit(1)

    threading.Thread(target=watch, daemon=True, name="parent").start()


def _take_gpu(environ: MutableMapping[str, Any], rank: int) -> None:
    """Before torch is imported: this process sees one GPU, so that "cuda" is its own everywhere, in each thread."""
    seen = environ.get("CUDA_VISIBLE_DEVICES")
    names = [name for name in seen.split(",") if name] if seen is not None else None
    if names is None:
        environ["CUDA_VISIBLE_DEVICES"] = str(rank)
    elif names:
        environ["CUDA_VISIBLE_DEVICES"] = names[rank]
    environ["LOCAL_RANK"] = "0"


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
