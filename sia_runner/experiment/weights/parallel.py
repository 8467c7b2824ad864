"""A weights update by several processes, started by torch.distributed.run with the folder of the call.

They run on this machine, or on all nodes of this job of SLURM, where srun starts one torch.distributed.run on each.

Each has its own GPU if there are any, and its part of the rows. With `trainer.processes` it also has a copy of the base
and its share of the questions; with `trainer.shards` a part of the base, and the first one rolls out.
"""

import os
import pickle
import socket
import subprocess
import sys
import traceback
from collections.abc import MutableMapping
from math import ceil
from pathlib import Path
from typing import Any

from sia_runner.compute import task
from sia_runner.compute.task import RETURNED, StageOutcome
from sia_runner.config.components import SlurmComputeConfig
from sia_runner.config.experiment import Experiment
from sia_runner.config.training import AlgorithmConfig
from sia_runner.experiment.context import RunContext
from sia_runner.experiment.execution import run_stage_in_job
from sia_runner.experiment.resources import servers_beside
from sia_runner.experiment.weights.update import append_line, update_weights
from sia_runner.records import Stage
from sia_runner.stage_results import BuildResult
from sia_runner.store.run_directory import remove_tree
from sia_runner.system import exit_with_parent

_MAX_LOSSES = 3  # times that processes are lost without a new checkpoint


def update_weights_in_parallel(context: RunContext, n: int, parent: int, algorithm: AlgorithmConfig) -> BuildResult:
    """Run `update_weights` in processes that end with this one; an exception or a fault in one ends them all."""
    if missing := _missing_gpus(context.config, algorithm):
        return BuildResult(f"{algorithm.name}: {missing}", unscored=True)
    if algorithm.shards > 1:
        context.close_gateway()  # the first process has its own, with the servers that the run starts
    generation, losses = context.run.generation(n), 0
    processes, nodes = generation.processes, _nodes(context.config)
    while True:
        remove_tree(processes)
        folders = [processes / str(rank) for rank in range(algorithm.ranks)]
        for folder in folders:
            folder.mkdir(parents=True)
        (processes / "call.pkl").write_bytes(pickle.dumps((context, n, parent, algorithm)))
        before = task.checkpoint_marks(generation.training)
        code = _run_processes(processes, algorithm.ranks, nodes)
        outcomes = [report for folder in folders if (report := task.read_outcome(folder))]
        result = _combined_result(outcomes, algorithm)
        if result is not None:
            break
        losses = losses + 1 if task.checkpoint_marks(generation.training) == before else 1
        what = f"a process of the training was lost: exit code {code}, see {processes.name}/log in gen_{n}"
        if losses == _MAX_LOSSES:
            return BuildResult(f"{algorithm.name}: {what}", unscored=True)
        append_line(generation.path / "training.log", f"{what}; the processes are started again")
    if not result.fault:
        remove_tree(processes)
    return result


def _nodes(config: Experiment) -> int:
    """Return the nodes that the processes are dealt to."""
    compute = config.compute
    return (compute.resources.train.nodes or 1) if isinstance(compute, SlurmComputeConfig) else 1


def _missing_gpus(config: Experiment, algorithm: AlgorithmConfig) -> str:
    import torch

    gpus = 0 if config.target_agent.policy.device == "cpu" else torch.cuda.device_count()
    if gpus and config.shares_servers:
        gpus = max(1, gpus - servers_beside(config, Stage.TRAIN))
    key = "processes" if algorithm.shards == 1 else "shards"
    problem = f"trainer.{key}={algorithm.ranks} needs a GPU for each of them; this machine shows {gpus}"
    return problem if 0 < gpus < ceil(algorithm.ranks / _nodes(config)) else ""


def _run_processes(folder: Path, processes: int, nodes: int) -> int:
    """Start the processes, which end when our end of their pipe closes, and return their common exit code."""
    command = [*_launcher(processes, nodes), "-m", "sia_runner.experiment.weights.parallel", str(folder)]
    environment = {"OMP_NUM_THREADS": "1", **os.environ}
    with (folder / "log").open("wb") as log:
        launcher = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=log, stderr=log, env=environment)
    try:
        return launcher.wait()
    finally:
        if launcher.stdin:
            launcher.stdin.close()  # the processes end at once; their launcher would take seconds to report that
        launcher.kill()
        launcher.wait()


def _launcher(processes: int, nodes: int) -> list[str]:
    """Return torch.distributed.run for `processes`; for several nodes srun starts one on each, of which this is one.

    They meet at this node. When one of them ends without success srun ends all others.
    """
    torchrun = [sys.executable, "-m", "torch.distributed.run", f"--nproc_per_node={processes // nodes}"]
    if nodes == 1:
        return [*torchrun, "--standalone"]
    job, cpus = os.environ["SLURM_JOB_ID"], os.environ.get("SLURM_CPUS_PER_TASK", "1")
    # the stage is a step of the same job on this node: the processes share what that step was given
    srun = ["srun", f"--jobid={job}", f"--nodes={nodes}", f"--ntasks={nodes}", "--ntasks-per-node=1", "--overlap"]
    srun += [f"--cpus-per-task={cpus}", "--export=ALL", "--kill-on-bad-exit=1", "--job-name=sia:update"]
    with socket.create_server(("", 0)) as free:
        port = free.getsockname()[1]
    meeting = [f"--rdzv_endpoint={socket.gethostname()}:{port}", "--rdzv_backend=c10d", f"--rdzv_id={job}.{port}"]
    return [*srun, *torchrun, f"--nnodes={nodes}", *meeting]


def _combined_result(outcomes: list[StageOutcome], algorithm: AlgorithmConfig) -> BuildResult | None:
    """Raise the first exception; else return the first fault, else the result of the process that wrote the adapter.

    None: a process was lost.
    """
    incomplete = len(outcomes) < algorithm.ranks  # a process was killed, or ended because another one failed
    for report in outcomes:
        # torch raises RuntimeError in a process whose peer is gone
        if report.kind != RETURNED and not (incomplete and issubclass(report.value[0], RuntimeError)):
            return report.result()
    returned: list[BuildResult] = [report.result() for report in outcomes if report.kind == RETURNED]
    faulty = next((result for result in returned if result.fault), None)
    return None if incomplete and not faulty else faulty or returned[0]


def run_training_process(folder: Path) -> int:
    """Run one of the processes; return a code that is not zero if the others must not wait for it."""
    exit_with_parent(sys.stdin.buffer)
    rank = int(os.environ["RANK"])
    _select_gpu(os.environ, int(os.environ["LOCAL_RANK"]))
    context, n, parent, algorithm = pickle.loads((folder / "call.pkl").read_bytes())  # noqa: S301 - our own file
    try:
        report = StageOutcome(RETURNED, run_stage_in_job(update_weights, context, n, parent, algorithm, rank))
    except BaseException as error:  # noqa: BLE001 - the parent process decides
        traceback.print_exc()
        report = task.error_outcome(error)
    task.write_outcome(folder / str(rank), report)
    return 0 if report.kind == RETURNED and not report.value.fault else 1


def _select_gpu(environ: MutableMapping[str, Any], rank: int) -> None:
    """Make one GPU visible before torch is imported, so that "cuda" is that GPU in every thread.

    The GPUs that no process of this machine trains on are left in SIA_SERVER_CARDS, for servers that one starts.
    """
    visible, local = environ.get("CUDA_VISIBLE_DEVICES"), int(environ.get("LOCAL_WORLD_SIZE", "1"))
    names = _all_gpus() if visible is None else [name for name in visible.split(",") if name]
    if len(names) >= local:  # fewer were refused, unless all compute on CPUs: servers may take what there is
        environ["SIA_SERVER_CARDS"] = ",".join(names[local:])
        environ["CUDA_VISIBLE_DEVICES"] = names[rank]
    environ["LOCAL_RANK"] = "0"


def _all_gpus() -> list[str]:
    """Return the numbers of this machine's GPUs, of NVIDIA's without torch, which could fix what is visible."""
    folder = Path("/proc/driver/nvidia/gpus")
    if folder.is_dir():
        return [str(number) for number in range(len(list(folder.iterdir())))]
    import torch

    return [str(number) for number in range(torch.cuda.device_count())]


if __name__ == "__main__":
    sys.exit(run_training_process(Path(sys.argv[1])))
