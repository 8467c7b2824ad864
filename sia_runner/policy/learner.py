"""The learner in this process: an adapter on the one copy of the base that also answers, alone or in several processes.

Each process has a copy of the weights and a part of the rows. Their gradients are summed once a step, so all take the
same step.
"""

import hashlib
import math
import os
import pickle
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from datetime import timedelta
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor

from sia_runner.config.training import LoraSettings
from sia_runner.errors import TrainingError
from sia_runner.policy.adapters import ServeAdapter
from sia_runner.policy.forward import Chunk, ChunkOutput, PolicyForward, ValueHead, deal_chunks, fused_head
from sia_runner.policy.lora import TRAINED_ADAPTER, LoadedModel, attached_adapter, restore_adapter_state
from sia_runner.records import Json
from sia_runner.system import process_count
from sia_runner.text import first_line
from sia_runner.wire.adapter_files import adapter_state, write_adapter
from sia_runner.wire.learning import (
    ForwardPass,
    LearnerAbilities,
    LowerLoss,
    RowNumbers,
    StepSettings,
    TrainingRow,
)
from sia_runner.wire.policy import PolicyError

# A process waits for the rollouts of the slowest one. The launcher ends all processes if one is gone.
# Numbers in the hidden states of all layers in one pass on a CPU: 970 tokens of SmolLM2-135M, which take 1.8 GB. Passes
# of 5 GB were not faster there by more than a tenth.
_CPU_STATES = 2**24
_PATIENCE = timedelta(days=1)


class ServedModel(LoadedModel, Protocol):
    """The model that the learner changes and that answers between steps."""

    lock: Any  # held while the model is used, by one thread at a time

    @property
    def version(self) -> str:
        """The version of the live weights."""
        ...

    def training(self) -> AbstractContextManager[Any]:
        """Hold the lock, with the model in train mode; afterwards the live weights have a new version."""
        ...


@contextmanager
def in_process_learner(
    policy: ServedModel,
    lora: LoraSettings,
    start: Path | None,
    seed: int,
    *,
    critic: bool,
    work: Path,
    temperature: float = 1.0,
    max_length: int | None = None,
    serve: ServeAdapter | None = None,
) -> Iterator["InProcessLearner"]:
    """Yield a learner of a new adapter, or of a copy of `start`; afterwards the policy is as before.

    Logprobs are at `temperature`. `save` writes to the folder `work`. A forward pass takes four rows of `max_length`
    tokens (None: of the longest row). `serve`: publishes elsewhere; None: the policy itself answers. Raises
    TrainingError if `start` or `lora` is not for this base.
    """
    with attached_adapter(policy, lora, start, seed) as model, fused_head(model.get_base_model(), temperature):
        settings = {"critic": critic, "work": work, "max_length": max_length, "serve": serve}
        learner = InProcessLearner(policy, seed, **settings)
        try:
            yield learner
        finally:
            learner.close()


class InProcessLearner:
    """A Learner of the adapter that `policy.model` has under training; see `in_process_learner`."""

    def __init__(
        self,
        policy: ServedModel,
        seed: int,
        *,
        critic: bool,
        work: Path,
        max_length: int | None = None,
        serve: ServeAdapter | None = None,
        sharded: bool = False,
    ) -> None:
        """Take the policy with its adapter. `sharded`: processes divide the base, so all make each pass together."""
        self._policy, self._model, self._seed, self._work = policy, policy.model, seed, work
        self._max_length, self._serve, self._sharded = max_length, serve, sharded
        self._rank, self._processes = join_processes(self._model.device.type)
        every = {"critic": True, "entropy": True, "temperature": True, "processes": True}
        self.abilities = LearnerAbilities(**every, overlap=serve is not None)
        self._value_head: ValueHead | None = None
        self._adapter: list[Tensor] = [weight for weight in self._model.parameters() if weight.requires_grad]
        if critic:
            self._value_head = ValueHead(self._model.config.get_text_config().hidden_size).to(self._model.device)
        self._critic: list[Tensor] = list(self._value_head.parameters()) if self._value_head else []
        self._weights = self._adapter + self._critic
        if self._processes > 1:
            for weight in self._weights:
                dist.broadcast(weight.data, 0)
        if self._model.device.type != "cpu":
            self._model.activation_checkpointing_enable()
            self._model.enable_input_require_grads()
        self._forward = PolicyForward(self._model, self._value_head)
        self._optimizer = torch.optim.AdamW(self._weights, weight_decay=0.0, fused=True)
        self._steps = 0  # that were taken
        self._open_step = ExitStack()  # holds the policy from the first `backward` to `step`: none answers in between
        self._is_open = False

    def forward(self, rows: Sequence[TrainingRow], *, base: bool = False) -> ForwardPass:
        """Return the logprobs of all rows, in eval mode; every process is given all of them."""
        with self._policy.lock, torch.no_grad(), self._model.disable_adapter() if base else nullcontext():
            training = self._model.training
            self._model.eval()
            try:
                outputs = [(chunk, self._run(rows, chunk)) for chunk in self._chunks(rows)]
            finally:
                self._model.train(training)
        passes = [output.forward_pass(chunk) for chunk, output in outputs if chunk]
        return _in_order(self._gather(passes), len(rows))

    def backward(
        self, rows: Sequence[TrainingRow], lower: LowerLoss, *, together: Sequence[Sequence[int]] = ()
    ) -> list[ForwardPass]:
        """Add the gradient of sum(weight * logprob + weight * value); `lower` is asked for this process's chunks only.

        No request is answered from here to `step`. The passes of all processes are returned.
        """
        passes = []
        try:
            self._begin_step()
            for chunk in self._chunks(rows, together):
                output = self._run(rows, chunk)
                if not chunk:
                    (0.0 * output.logprob_bt.sum()).backward()
                    continue
                passes.append(output.forward_pass(chunk))
                output.loss(lower(passes[-1])).backward()
        except BaseException:
            self._end_step()
            raise
        return self._gather(passes)

    def step(self, settings: StepSettings) -> float:
        """Take one step of AdamW and let the policy answer again; without any gradient nothing moves."""
        try:
            self._sum_gradients()
            if all(weight.grad is None for weight in self._weights):
                return 0.0
            norm = torch.nn.utils.clip_grad_norm_(self._adapter, settings.max_norm or math.inf)
            torch.nn.utils.clip_grad_norm_(self._critic, settings.max_norm or math.inf)
            for group in self._optimizer.param_groups:
                group.update(lr=settings.learning_rate, betas=settings.betas, eps=settings.epsilon)
            self._optimizer.step()
            self._steps += 1
            return float(norm)
        finally:
            self._end_step()

    def publish(self) -> str:
        """Serve the weights elsewhere, if so configured; the policy itself answers with those of each step anyway."""
        if self._serve is None:
            return self._policy.version
        origin = {"base_id": self._policy.base_id, "base_sha256": self._policy.base_sha256}
        write = partial(write_adapter, self._model, TRAINED_ADAPTER, origin=origin)
        version = self._serve(write) if self._rank == 0 else ""
        return self._gather([version])[0]

    def save(self, tag: str) -> Json:
        """Write `work`/`tag`/learner.pt, complete or not at all. Raises TrainingError if processes differ."""
        self._check_equal_weights()
        file = self._work / tag / "learner.pt"
        if self._rank == 0:
            content = {
                "base_sha256": self._policy.base_sha256,
                "adapter": adapter_state(self._model, TRAINED_ADAPTER),
                "value": self._value_head.state_dict() if self._value_head else {},
                "optimizer": self._optimizer.state_dict(),
                "steps": self._steps,
            }
            file.parent.mkdir(parents=True, exist_ok=True)
            partial = file.with_name(f".{file.name}.{os.getpid()}")
            with partial.open("wb") as stream:
                torch.save(content, stream)
                stream.flush()
                os.fsync(stream.fileno())
            partial.rename(file)
        self._wait()
        return {"file": f"{tag}/{file.name}"}

    def load(self, state: Json) -> None:
        """Restore what `save` wrote. Raises PolicyError if it is lost, or of another base, adapter or critic."""
        file = self._work / str(state["file"])
        try:
            saved = torch.load(file, map_location="cpu", weights_only=True)
        except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
            raise PolicyError(f"{file}, the state of a training, cannot be read: {first_line(error)}") from None
        if saved["base_sha256"] != self._policy.base_sha256:
            raise PolicyError(f"{file} is the state of a training on another base ({saved['base_sha256'][:12]})")
        self._end_step()
        with self._policy.training():
            try:
                restore_adapter_state(self._model, saved["adapter"])
                if self._value_head:
                    self._value_head.load_state_dict(saved["value"])
                self._optimizer.load_state_dict(saved["optimizer"])
            except (TrainingError, RuntimeError, ValueError) as error:
                raise PolicyError(f"{file} is the state of another training: {first_line(error)}") from None
        self._steps = saved["steps"]

    def forget(self, state: Json) -> None:
        """Do nothing: the folder of the tag has all of it."""

    def export(self, folder: Path, origin: Mapping[str, Any]) -> None:
        """Write the adapter; the first process does."""
        if self._rank == 0:
            write_adapter(self._model, TRAINED_ADAPTER, folder, origin)
        self._wait()

    def close(self) -> None:
        """Let the policy answer, and remove what was added to the model."""
        self._end_step()
        self._forward.close()

    def _chunks(self, rows: Sequence[TrainingRow], together: Sequence[Sequence[int]] = ()) -> list[Chunk]:
        own = (self._rank, self._processes, together, self._max_length)
        shape, most = self._model.config.get_text_config(), None
        if self._model.device.type == "cpu":
            most = max(1, _CPU_STATES // (shape.hidden_size * shape.num_hidden_layers))
        how = {"fused_attention": shape._attn_implementation != "eager", "share": self._forward.shares}
        return deal_chunks(rows, *own, keep_empty=self._sharded, most_tokens=most, **how)

    def _run(self, rows: Sequence[TrainingRow], chunk: Chunk) -> ChunkOutput:
        """Run a pass over a chunk; over the shortest row, which does not count, where others have a chunk more."""
        numbers = chunk or [min(range(len(rows)), key=lambda row: len(rows[row].prompt_ids + rows[row].completion_ids))]
        return self._forward.run([rows[row] for row in numbers])

    def _begin_step(self) -> None:
        if self._is_open:
            return
        self._open_step.enter_context(self._policy.training())
        self._is_open = True
        digest = hashlib.sha256(repr((self._seed, self._steps, self._rank)).encode()).digest()
        torch.manual_seed(int.from_bytes(digest[:4], "big") >> 1)  # dropout's

    def _end_step(self) -> None:
        """Clear gradients and let the policy answer."""
        self._optimizer.zero_grad(set_to_none=True)
        self._is_open = False
        self._open_step.close()

    def _sum_gradients(self) -> None:
        """Sum the gradients of all processes, in one exchange; weights without one in any process keep none."""
        if self._processes == 1:
            return
        present = torch.tensor([float(weight.grad is not None) for weight in self._weights])
        parts = [
            torch.zeros_like(weight, dtype=torch.float32) if weight.grad is None else weight.grad.float()
            for weight in self._weights
        ]
        flat = torch.cat([present.to(self._model.device), *(part.flatten() for part in parts)])
        dist.all_reduce(flat)
        present, *summed = flat.split([len(present), *(part.numel() for part in parts)])
        for weight, has_gradient, gradient in zip(self._weights, present.tolist(), summed, strict=True):
            weight.grad = gradient.view_as(weight).to(weight.dtype) if has_gradient else None

    def _check_equal_weights(self) -> None:
        digest = hashlib.sha256()
        for weight in self._weights:
            digest.update(weight.detach().float().cpu().numpy().tobytes())
        if len(set(self._gather([digest.hexdigest()]))) > 1:
            raise TrainingError(f"the {self._processes} processes of the training have different weights")

    def _gather(self, own: list[Any]) -> list[Any]:
        """Return the items of all processes, in the order of processes."""
        if self._processes == 1:
            return own
        parts: list[list[Any]] = [[] for _ in range(self._processes)]
        dist.all_gather_object(parts, own)
        return [item for part in parts for item in part]

    def _wait(self) -> None:
        if self._processes > 1:
            dist.barrier()


def join_processes(device: str) -> tuple[int, int]:
    """Join the processes that torchrun started, if it did; return the number of this one, and how many there are."""
    if process_count() > 1 and not dist.is_initialized():
        dist.init_process_group("gloo" if device == "cpu" else "cpu:gloo,cuda:nccl", timeout=_PATIENCE)
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


def _in_order(passes: Sequence[ForwardPass], count: int) -> ForwardPass:
    """Join passes over `count` rows into one."""
    entropy = sum(part.entropy or 0.0 for part in passes)

    at = [row for part in passes for row in part.rows]

    def ordered(parts: Iterable[RowNumbers]) -> RowNumbers:
        numbers = dict(zip(at, chain.from_iterable(parts), strict=True))
        return [numbers[row] for row in range(count)]

    values = [part.values for part in passes if part.values is not None]
    logprobs = ordered(part.logprobs for part in passes)
    return ForwardPass(range(count), logprobs, entropy, ordered(values) if values else None)
