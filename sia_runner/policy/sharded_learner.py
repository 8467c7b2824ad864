"""The learner of a base that no process holds whole: each has a shard of it, a copy of the adapter, and some rows.

The processes gather one layer at a time. Nothing answers from such a base; a server does. The gradient of the adapter
is summed once a step, as for processes with a copy of the base each.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from sia_runner.config.training import LoraSettings, PolicyConfig
from sia_runner.errors import TrainingError
from sia_runner.policy.adapters import BASE_VERSION, ServeAdapter
from sia_runner.policy.base_model import base_folder
from sia_runner.policy.expert_lora import replace_expert_forward
from sia_runner.policy.forward import fused_head
from sia_runner.policy.learner import InProcessLearner, join_processes
from sia_runner.policy.lora import attached_adapter
from sia_runner.policy.sharded_base import shard_and_load, weightless_model
from sia_runner.wire.learning import Learner, RowNumbers, Sample, Sampler, SampleSettings, TrainingRow
from sia_runner.wire.policy import PolicyError, WeightsSource


@dataclass(slots=True)
class ShardedModel:
    """A ServedModel that answers nothing."""

    model: Any
    tokenizer: Any
    base_id: str
    base_sha256: str
    trust_base: bool = False
    lock: Any = field(default_factory=threading.RLock)
    version: str = BASE_VERSION

    @contextmanager
    def training(self) -> Iterator[Any]:
        """Yield the model in train mode."""
        with self.lock:
            self.model.train()
            try:
                yield self.model
            finally:
                self.model.eval()


@contextmanager
def sharded_learner(
    spec: PolicyConfig,
    base_sha256: str,
    lora: LoraSettings,
    start: Path | None,
    seed: int,
    *,
    critic: bool,
    work: Path,
    serve: ServeAdapter,
    temperature: float = 1.0,
    max_length: int | None = None,
) -> Iterator[Learner]:
    """Yield a learner of a new adapter, or of a copy of `start`, on a base that is divided over all processes.

    All processes that torchrun started call this together, and every method of the learner. `serve` publishes; the
    first process calls it. Raises PolicyError, and TrainingError if `start` or `lora` is not for this base.
    """
    device = _device(spec)
    join_processes(device)
    folder = base_folder(spec.base)
    policy = ShardedModel(weightless_model(folder, spec.dtype, device), None, spec.base, base_sha256, spec.trust_base)
    with attached_adapter(policy, lora, start, seed) as model:
        trainable = [name for name, weight in model.named_parameters() if weight.requires_grad]
        if others := [name for name in trainable if "lora_" not in name]:
            raise TrainingError(f"trainer.shards trains LoRA matrices only; this adapter also trains {others[0]}")
        replace_expert_forward(model)
        shard_and_load(model, folder, device)
        with fused_head(model.get_base_model(), temperature):
            settings = {"critic": critic, "work": work, "max_length": max_length, "serve": serve, "sharded": True}
            learner = InProcessLearner(policy, seed, **settings)
            try:
                yield learner
            finally:
                learner.close()


def share_base_sha256(spec: PolicyConfig, sha256: str = "") -> str:
    """Return the hash of the base's weights that the first process read: all call this, so that one reads the files."""
    join_processes(_device(spec))
    answer = [sha256]
    dist.broadcast_object_list(answer, 0)
    return answer[0]


def _device(spec: PolicyConfig) -> str:
    return ("cuda" if torch.cuda.is_available() else "cpu") if spec.device == "auto" else spec.device


class ShardPolicy:
    """A TrainablePolicy for the processes that only train: the first one has the policy that answers."""

    def __init__(self, spec: PolicyConfig) -> None:
        """Wait for the base's hash, which the first process sends by `share_base_sha256`."""
        self.spec, self.base_id, self.base_sha256 = spec, spec.base, share_base_sha256(spec)
        self.sampler: Sampler = _OtherProcessSampler()

    def learner(
        self, lora: LoraSettings, start: Path | None, seed: int, **settings: Any
    ) -> AbstractContextManager[Learner]:
        """Return this process's part of the learner."""
        return sharded_learner(self.spec, self.base_sha256, lora, start, seed, serve=_not_here, **settings)

    def use(self, adapter: Path | None) -> str:
        """Do nothing: this process answers no requests."""
        return BASE_VERSION


class _OtherProcessSampler:
    """Stands for the sampler that the first process asks."""

    def sample(
        self, prompt_ids: Sequence[int], count: int, settings: SampleSettings, weights: WeightsSource
    ) -> list[Sample]:
        raise PolicyError("only the first process of an update samples")

    def score(self, rows: Sequence[TrainingRow], weights: WeightsSource) -> RowNumbers:
        raise PolicyError("only the first process of an update asks the server")


def _not_here(write: Callable[[Path], None]) -> str:
    raise PolicyError("only the first process of an update publishes")
