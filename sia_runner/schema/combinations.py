"""Rules refuse choices that are valid alone but not together; each refusal names both keys and what is allowed."""

from typing import TYPE_CHECKING, get_args

from sia_runner.schema.compute import Slurm
from sia_runner.schema.task import Together

if TYPE_CHECKING:
    from sia_runner.config import Experiment
    from sia_runner.schema.training import Algorithm


def refuse(experiment: "Experiment") -> None:
    """Raise ValueError with one line for the user if a combination is not allowed."""
    for rule in (_trainer, _policy, _processes, _mcnemar, _model, _proposer, _width, _in_flight):
        rule(experiment)


def _trainer(e: "Experiment") -> None:
    if e.trainer.kind != "none" and not e.calls_model:
        raise ValueError(
            f"trainer={e.trainer.name} trains the model that a harness calls, "
            f"but target_agent={e.target_agent.name} calls none; allowed with it: trainer=none"
        )


def _policy(e: "Experiment") -> None:
    spec = e.target_agent.policy
    key = "target_agent.policy"
    if spec.backend == "peft" and spec.base_url is not None:
        raise ValueError(f"{key}.base_url={spec.base_url} is a vLLM server's, but {key}.backend=peft uses no server")
    if spec.backend == "vllm" and not (spec.base_url or "").startswith(("http://", "https://")):
        raise ValueError(
            f"{key}.backend=vllm needs {key}.base_url, the server's address up to and including /v1 "
            f"(http://… or https://…); given: {spec.base_url}"
        )
    if spec.backend == "vllm" and spec.base == "tiny":
        raise ValueError(
            f"{key}.base=tiny is built by the runner, so no server has it; allowed with {key}.backend=vllm: "
            "a folder or hub id that the server serves under the same name"
        )
    modules = sorted(name for algorithm in _algorithms(e) for name in algorithm.lora.save)
    if spec.backend == "vllm" and modules:
        raise ValueError(
            f"trainer.lora.save={modules} trains whole modules, which vLLM cannot load with an adapter; "
            f"allowed with {key}.backend=vllm: []"
        )


def _processes(e: "Experiment") -> None:
    processes = max((algorithm.processes for algorithm in _algorithms(e)), default=1)
    if processes > 1 and e.target_agent.policy.backend == "vllm":
        raise ValueError(
            f"trainer.processes={processes} would each load an adapter into the server of "
            "target_agent.policy.backend=vllm, which answers with one; allowed with it: 1"
        )
    gpus = e.compute.resources.of("train").gpus if isinstance(e.compute, Slurm) else None
    if isinstance(gpus, int) and 0 < gpus < processes:
        raise ValueError(
            f"trainer.processes={processes} needs a GPU for each, but compute.resources.train.gpus={gpus}; "
            f"allowed: {processes} GPUs, or 0 with target_agent.policy.device=cpu"
        )


def _algorithms(e: "Experiment") -> list["Algorithm"]:
    if e.trainer.kind == "none":
        return []
    return list(e.trainer.algorithms.values()) if e.trainer.kind == "auto" else [e.trainer]


def _mcnemar(e: "Experiment") -> None:
    verifier = e.task.metric.verifier
    if e.search.accept.rule == "mcnemar" and verifier in get_args(Together):
        raise ValueError(
            f"search.accept.rule=mcnemar counts single questions, but task.metric.verifier={verifier} is a score of "
            "all; allowed with it: ladder, bootstrap"
        )


def _model(e: "Experiment") -> None:
    if e.target_agent.kind == "model" and e.target_provider.kind == "offline":
        raise ValueError(
            f"target_agent={e.target_agent.name} calls a model, but provider={e.target_provider.name} serves none; "
            "give provider=…, or target_agent=script"
        )
    if getattr(e.task, "needs_model", False) and not e.calls_model:
        raise ValueError(
            f"task={e.task.name} cannot be answered without a model, but provider={e.target_provider.name} "
            f"with target_agent={e.target_agent.name} serves none; give provider=… (see --help)"
        )


def _proposer(e: "Experiment") -> None:
    is_model = e.meta_agent.target.startswith(("sia_runner.agents.llm.", "sia_runner.agents.guests."))
    if is_model and e.meta_provider.kind == "offline":
        raise ValueError(
            f"meta_agent={e.meta_agent.name} is a language model, but provider={e.meta_provider.name} serves none; "
            "give provider=… or provider@meta_agent.provider=…, or meta_agent=recipes, which needs none"
        )


def _width(e: "Experiment") -> None:
    if e.search.width > 1 and not hasattr(e.task, "splits"):
        raise ValueError(
            f"search.width={e.search.width} chooses among proposals on dev questions, but task={e.task.name} has none; "
            "allowed with it: 1"
        )


def _in_flight(e: "Experiment") -> None:
    key = f"search.in_flight={e.search.in_flight}"
    if e.search.in_flight == 1:
        return
    if e.search.width > 1:
        raise ValueError(f"{key} writes proposals side by side already; allowed with it: search.width=1")
    if e.trainer.kind != "none":
        raise ValueError(
            f"{key} goes on before verdicts are known, but an update of the weights (trainer={e.trainer.name}) starts "
            "from the incumbent's; allowed with it: trainer=none"
        )
    if e.approve != "none":
        raise ValueError(f"{key} does not wait, but approve={e.approve} waits for a person; allowed: approve=none")
