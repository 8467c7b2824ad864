"""What stages need for the policy: GPUs and memory of the jobs that load it, and the refusal of what cannot fit."""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from math import ceil

from sia_runner.config.base import is_custom
from sia_runner.config.components import ComputeConfig, SlurmComputeConfig, StageResources
from sia_runner.config.experiment import Experiment, ReplayConfig
from sia_runner.config.training import AlgorithmConfig, LoraSettings, PolicyConfig, allowed_algorithms
from sia_runner.errors import RunnerError
from sia_runner.policy import fit
from sia_runner.policy.fit import GB, ModelShape, Training, gigabytes, parts_text, training_memory
from sia_runner.records import Stage
from sia_runner.wire.policy import PolicyError

_CPUS = 4  # of a job that loads the policy: tokenizing, sandboxes, and the process that holds the weights
_BESIDE_WEIGHTS_GB = 8  # memory of such a job beside the weights, which are read there before they go to a GPU
# Memory of GPUs in GB by the names that clusters use: of several cards of a name the smallest. A number wins: a100-80g.
_GPU_GB = {
    "t4": 16, "v100": 16, "p100": 16, "l4": 24, "a10": 24, "a30": 24, "rtx3090": 24, "rtx4090": 24, "rtx5090": 32,
    "a40": 48, "a6000": 48, "l40": 48, "l40s": 48, "a100": 40, "h100": 80, "gh200": 96, "h200": 141, "b200": 180,
}  # fmt: skip


SERVERS = "servers"  # the kind of the job of the servers that all stages share


class FitError(RunnerError):
    """A policy that cannot work with the resources that it gets; the message is one line for the user."""


def loads_policy(config: Experiment, kind: str) -> bool:
    """Return True if a stage of this kind, or the job of shared servers, loads a pretrained base or starts servers.

    base=tiny is small enough for any stage. A base that running servers answer with is loaded by `train` alone.
    """
    spec = config.target_agent.policy
    if not config.has_policy or spec.base == "tiny" or is_custom(spec.backend) or spec.backend == "tinker":
        return False
    if kind in (Stage.TRAIN, SERVERS):
        return config.trainer.kind != "none" if kind == Stage.TRAIN else config.shares_servers
    loads = spec.backend == "peft" or (spec.base_url is None and not config.shares_servers)
    return loads and _answers(config, kind)


def asks_servers(config: Experiment, kind: str) -> bool:
    """Return True if a stage of this kind asks the vLLM servers that all stages share."""
    return config.shares_servers and (kind == Stage.TRAIN or _answers(config, kind))


def _answers(config: Experiment, kind: str) -> bool:
    """Return True if harnesses that call the policy run in a stage of this kind."""
    tries = kind == Stage.PROPOSE and not isinstance(config.meta_agent, ReplayConfig)
    return tries or kind in (Stage.GATE, Stage.RUN, Stage.TEST)


def resolved_compute(config: Experiment) -> ComputeConfig:
    """Return the compute's configuration with the resources of each stage as they follow from the policy."""
    compute = config.compute
    if not isinstance(compute, SlurmComputeConfig):
        return compute
    fields = type(compute.resources).model_fields
    kinds = [str(kind) for kind in (*Stage, SERVERS) if kind in fields and loads_policy(config, kind)]
    by_stage = {kind: stage_resources(config, kind) for kind in kinds}
    return compute.model_copy(update={"resources": compute.resources.model_copy(update=by_stage)})


def stage_resources(config: Experiment, kind: str) -> StageResources:
    """Return what a stage's job asks for: the configuration's keys, and what the policy needs where they are null."""
    compute = config.compute
    if not isinstance(compute, SlurmComputeConfig):
        raise TypeError(f"compute={compute.name} asks for no resources")
    if not loads_policy(config, kind):
        return compute.resources.of(kind)
    spec, nodes = config.target_agent.policy, _train_nodes(config)
    ranks, shards = _ranks(config) if kind == Stage.TRAIN else (1, 1)
    local = ceil(ranks / nodes) if kind == Stage.TRAIN else 1  # processes on one node
    if kind == SERVERS:
        local = spec.vllm.servers
    own = local if kind == Stage.TRAIN or spec.backend == "peft" else 0  # of these, processes that hold weights
    gpus = 0 if spec.device == "cpu" else own + servers_beside(config, kind)
    keys: dict[str, float] = {"cpus": _CPUS * local, "gpus": gpus}
    try:
        weights = base_bytes(fit.model_shape(spec.base, fetch=False), spec)
        keys["memory_gb"] = ceil(local * weights / shards / GB) + _BESIDE_WEIGHTS_GB
    except PolicyError:
        pass  # its files are not on this machine: the configuration decides
    policy = StageResources.model_validate(keys | compute.resources.policy.model_dump(exclude_none=True))
    return compute.resources.model_copy(update={"policy": policy}).of(kind, loads_policy=True)


def server_gpus(spec: PolicyConfig) -> int:
    """Return the GPUs of the servers that a run or a stage starts; of a stage on several nodes, on its first node."""
    starts = spec.backend == "vllm" and spec.base_url is None and spec.device != "cpu"
    return spec.vllm.servers * spec.vllm.tensor_parallel if starts else 0


def servers_beside(config: Experiment, kind: str) -> int:
    """Return the GPUs of servers where a stage of this kind runs: none where they are a job of their own."""
    elsewhere = config.shares_servers and isinstance(config.compute, SlurmComputeConfig) and kind != SERVERS
    return 0 if elsewhere else server_gpus(config.target_agent.policy)


def base_bytes(shape: ModelShape, spec: PolicyConfig) -> int:
    """Return the bytes of a base's weights as they are loaded."""
    return shape.parameters * fit.DTYPE_BYTES[spec.dtype]


def training_of(spec: PolicyConfig, algorithm: AlgorithmConfig | None) -> Training:
    """Return what an update does as far as its memory follows from it; None: one with the settings' defaults."""
    answers = spec.max_batch_size * (spec.max_tokens + 1024) if spec.backend == "peft" else 0
    if algorithm is None:
        return Training(LoraSettings(), dtype=spec.dtype, answers=answers)
    return Training(
        algorithm.lora,
        max_length=algorithm.max_length,
        dtype=spec.dtype,
        shards=algorithm.shards,
        processes=algorithm.ranks,
        checkpointing=spec.device != "cpu",
        critic=algorithm.algorithm == "ppo",
        answers=answers,
    )


def fit_lines(config: Experiment, *, fetch: bool = True) -> Iterator[str]:
    """Yield what each part of the policy's memory is, and where it is held. Raises FitError where it cannot fit.

    Raises PolicyError where the base's memory is not computed. `fetch`: also its config.json from the hub.
    """
    spec = config.target_agent.policy
    stages = [str(kind) for kind in (*Stage, SERVERS) if loads_policy(config, kind)]
    if not stages:
        return
    shape = fit.model_shape(spec.base, fetch=fetch)
    files = f", {gigabytes(shape.file_bytes)} of files" if shape.file_bytes else ""
    size = f"{gigabytes(base_bytes(shape, spec))} in {spec.dtype}"
    yield f"{spec.base}: {shape.parameters / 1e9:.3g}e9 parameters, {size}{files}"
    for kind in stages:
        where, gpus, gpu_bytes, memory = _place(config, kind)
        needed = base_bytes(shape, spec) / (_ranks(config)[1] if kind == Stage.TRAIN else 1)
        if memory is not None and memory < needed and (kind == Stage.TRAIN or spec.backend == "peft"):
            need = f"{gigabytes(needed)} of weights are read there"
            raise FitError(f"{where} has {gigabytes(memory)} of memory, but {need}{_advice(spec)}")
        if spec.device == "cuda" and gpus == 0:
            raise FitError(f"{where} has no GPU, but target_agent.policy.device=cuda loads {spec.base} on one")
        own = _ranks(config)[0] // _train_nodes(config) if kind == Stage.TRAIN else int(spec.backend == "peft")
        beside = servers_beside(config, kind)
        if 0 < gpus < (count := own + beside):
            servers = f", {beside} of them for servers" if beside and own else ""
            verb = "take" if kind == SERVERS else "takes"
            raise FitError(f"{where} has {gpus} GPUs on a node, but {kind} {verb} {count}{servers}")
        if gpu_bytes and gpus:
            _check_answering(shape, config, kind, where, gpu_bytes)
        if kind != Stage.TRAIN:
            continue
        for name, algorithm in allowed_algorithms(config.trainer).items():
            yield _training_line(shape, training_of(spec, algorithm), name, where, gpu_bytes if gpus else None)
    if config.shares_servers:
        yield _sharing_of_servers(config)
    elif answering := [kind for kind in stages if kind != Stage.TRAIN]:
        yield f"{_sharing(config)}: {', '.join(answering)}"


def _check_answering(shape: ModelShape, config: Experiment, kind: str, where: str, gpu_bytes: float) -> None:
    """Raise FitError where GPUs are too small for what answers on them."""
    spec = config.target_agent.policy
    if not servers_beside(config, kind):
        need = base_bytes(shape, spec) + GB  # and CUDA
        if kind != Stage.TRAIN and need > gpu_bytes:
            small = f"{where} has GPUs of {gigabytes(gpu_bytes)}"
            raise FitError(f"{small}, but {spec.base} takes {gigabytes(need)}{_advice(spec)}")
        return
    algorithms = list(allowed_algorithms(config.trainer).values())
    training, parallel = training_of(spec, algorithms[0] if algorithms else None), spec.vllm.tensor_parallel
    memory = fit.server_memory(shape, training.lora, training.max_length, gpu_bytes, parallel)
    if memory.sequences < 1:
        smallest = fit.server_gpus(shape, training.lora, training.max_length, gpu_bytes)
        advice = f"; allowed: target_agent.policy.vllm.tensor_parallel={smallest}" if smallest else ""
        parts = f"{gigabytes(memory.weights)} of weights and {gigabytes(memory.adapters)} of adapters"
        small = f"{where} has GPUs of {gigabytes(gpu_bytes)}"
        raise FitError(f"{small}, but each of a server's {parallel} takes {parts}{advice}")


def _training_line(shape: ModelShape, training: Training, name: str, where: str, gpu_bytes: float | None) -> str:
    memory = training_memory(shape, training)
    text = f"trainer {name}: {parts_text(memory)}; {gigabytes(memory.total)} at the peak of each process"
    if gpu_bytes is None:
        return text
    longest = fit.longest_rows(shape, training, gpu_bytes)
    if memory.total > gpu_bytes:
        shorter = f"; trainer.max_length={longest} fits" if longest else ""
        raise FitError(f"{where} has GPUs of {gigabytes(gpu_bytes)}, but {text}{shorter}")
    return f"{text}, of {gigabytes(gpu_bytes)}; rows of {longest:,} tokens would fit"


def _advice(spec: PolicyConfig) -> str:
    return "; target_agent.policy.dtype=bfloat16 halves them" if spec.dtype == "float32" else ""


def _sharing(config: Experiment) -> str:
    """Say how the stages that ask the policy come by its weights."""
    if not isinstance(config.compute, SlurmComputeConfig):
        return "loaded once, by the process of the run, for" if config.compute.name == "inline" else "loaded by each of"
    gpus = {
        str(stage_resources(config, kind).gpus or 0)
        for kind in Stage
        if kind != Stage.TRAIN and loads_policy(config, kind)
    }
    return f"loaded by each job (GPUs: {', '.join(sorted(gpus))}) of"


def _sharing_of_servers(config: Experiment) -> str:
    """Say where the shared servers are, and who asks them."""
    spec = config.target_agent.policy
    where, gpus = "started by the process of the run", server_gpus(spec)
    if isinstance(config.compute, SlurmComputeConfig):
        resources = stage_resources(config, SERVERS)
        limit = f"{resources.minutes} minutes, then again"
        where, gpus = f"a job of their own (compute.resources.servers, {limit})", gpu_request(resources)[1]
    several = "1 vLLM server" if spec.vllm.servers == 1 else f"{spec.vllm.servers} vLLM servers"
    stages = ", ".join(str(kind) for kind in Stage if asks_servers(config, kind))
    return f"{several}, {where}, GPUs: {gpus}, shared by: {stages}"


def _place(config: Experiment, kind: str) -> tuple[str, int, float | None, float | None]:
    """Return where a stage runs, its GPUs, the bytes of one of them, and those of main memory; None: unknown."""
    if isinstance(config.compute, SlurmComputeConfig):
        resources, key = stage_resources(config, kind), f"compute.resources.{kind}"
        if resources.run_in != "driver":
            memory = resources.memory_gb * 2**30 if resources.memory_gb else None  # 0: all of a node
            gpu_type, count = gpu_request(resources)
            size = resources.gpu_gb or gpu_memory(gpu_type)
            return key, count, size and size * GB, memory
        if config.target_agent.policy.device != "cpu":
            base = config.target_agent.policy.base
            raise FitError(
                f"{key}.run_in=driver would load {base} beside the loop; allowed: job, or a base that is served"
            )
    memory = float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    sizes = [] if config.target_agent.policy.device == "cpu" else gpus_here()
    return "this machine", len(sizes), min(sizes, default=None), memory


def gpu_request(resources: StageResources) -> tuple[str, int]:
    """Return the type, which may be empty, and the number of GPUs that a job asks for on each node."""
    text = str(resources.gpus or 0)
    name, _, count = text.rpartition(":")
    return (name or text, 1) if not count.isdigit() else (name, int(count))


def gpu_memory(name: str) -> float | None:
    """Return the GB of a type of GPU; None for a name that does not tell."""
    plain = name.lower()
    if sizes := re.findall(r"(\d+) ?gb?\b", plain):
        return float(sizes[-1])
    words = re.split(r"[^a-z0-9]+", plain.replace("rtx_", "rtx").replace("rtx-", "rtx"))
    return next((float(_GPU_GB[word]) for word in words if word in _GPU_GB), None)


def gpus_here() -> list[float]:
    """Return the bytes of each GPU of this machine that a process may use; empty without NVIDIA's tool."""
    if not shutil.which("nvidia-smi"):
        return []
    command = ["nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return []
    sizes = [float(line) * 2**20 for line in answer.stdout.split() if line.isdigit()] if not answer.returncode else []
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return sizes if visible is None else sizes[: len([name for name in visible.split(",") if name.strip()])]


def _train_nodes(config: Experiment) -> int:
    compute = config.compute
    return (compute.resources.train.nodes or 1) if isinstance(compute, SlurmComputeConfig) else 1


def _ranks(config: Experiment) -> tuple[int, int]:
    """Return the processes of an update, and the shards of the base among them, at most."""
    algorithms = allowed_algorithms(config.trainer).values()
    ranks = max((algorithm.ranks for algorithm in algorithms), default=1)
    return ranks, max((algorithm.shards for algorithm in algorithms), default=1)
