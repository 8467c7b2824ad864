"""The policy `backend=vllm`: vLLM servers answer, and the trained weights live in this process.

Each published version of the adapter under training is a folder that the server loads under a name of its own, because
a server that replaces an adapter in place may answer with the one before, or read it again at every step.
"""

import json
import tempfile
import threading
import uuid
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from sia_runner.config.training import LoraSettings, PolicyConfig
from sia_runner.policy.adapters import BASE_VERSION, adapter_version, check_adapter_base
from sia_runner.policy.base_model import ChatTokenizer, base_folder, load_tokenizer, weights_sha256
from sia_runner.policy.engine import PolicyEngine
from sia_runner.policy.remote import RemotePolicy
from sia_runner.policy.shared_servers import SharedServers
from sia_runner.policy.vllm_client import VllmServer
from sia_runner.policy.vllm_servers import ManagedServers
from sia_runner.system import process_count
from sia_runner.wire.adapter_files import CONFIG_FILE, WEIGHTS_FILE
from sia_runner.wire.failures import CallError
from sia_runner.wire.grants import ProviderDown
from sia_runner.wire.learning import Learner, RowNumbers, Sample, SampleSettings, TrainingRow
from sia_runner.wire.policy import LiveWeights, PolicyError, WeightsSource, check_policy_packages

_REQUEST_SECONDS = 3600.0  # of one request: slow hardware may queue for long
_STARTUP_SECONDS = 60.0  # of the first requests: a new server compiles first
_CLOSE_SECONDS = 2.0  # of the requests at the end, which may be that of an interrupted run
_FLAT_NATS = 0.01  # nats: a flatter distribution shows no effect of the temperature
_MAX_SERVER_ADAPTERS = 4  # adapters on the server at the same time, besides those under training

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class _Published:
    """One version of the adapter under training, as the server has it."""

    name: str
    version: str
    folder: tempfile.TemporaryDirectory[str]  # which a server that was started again reads once more


class VllmSampler:
    """A RemoteSampler at one vLLM server, or at those of the run; all methods may be called from any thread."""

    def __init__(
        self,
        base_id: str,
        server: VllmServer | ManagedServers | SharedServers,
        folder: Path,
        *,
        trust_base: bool = False,
    ) -> None:
        """Ask the server for its context. Raises CallError.

        Published versions are written to `folder`, which the server has to see under the same path.
        """
        self._base_id, self._folder, self._trust_base = base_id, folder, trust_base
        self._server, self._lock = server, threading.RLock()
        self.address = self._server.address
        self._prefix = f"sia-live-{uuid.uuid4().hex[:12]}"  # other runs may use the same server
        self._base_sha256 = ""
        self._used: Path | None = None
        self._live: _Published | None = None  # None: `_used` is live
        self._versions = self._names = 0  # versions since the last `use`; names that were given so far
        self._loaded: OrderedDict[str, None] = OrderedDict()  # names at the server; the most recently used one last
        self._under_way: Counter[str] = Counter()  # requests by name
        self._retired: dict[str, _Published] = {}  # unloaded when their last request has ended
        self.context = self._server.context(base_id, _STARTUP_SECONDS)

    @property
    def base_sha256(self) -> str:
        """The hash of the base's weights, which are read by the first call."""
        self._base_sha256 = self._base_sha256 or weights_sha256(base_folder(self._base_id))
        return self._base_sha256

    @property
    def version(self) -> str:
        """The version of the live weights: an adapter's hash or "base", and the number of versions published since."""
        base_version = adapter_version(self._used) if self._used else BASE_VERSION
        return f"{base_version}+{self._versions}" if self._versions else base_version

    def sample(
        self, prompt_ids: Sequence[int], count: int, settings: SampleSettings, weights: WeightsSource
    ) -> list[Sample]:
        """Complete a prompt `count` times, with consecutive seeds. Raises CallError and PolicyError."""
        options = {
            "max_tokens": settings.max_tokens,
            "temperature": settings.temperature,
            "top_p": settings.top_p,
            "stop": list(settings.stop),
        }

        def complete(name: str, version: str) -> list[Sample]:
            seeds = [None if settings.seed is None else settings.seed + number for number in range(count)]
            return [
                Sample(
                    *self._server.complete(name, version, prompt_ids, _REQUEST_SECONDS, **options, seed=seed), version
                )
                for seed in seeds
            ]

        return self._with_weights(weights, complete)

    def score(self, rows: Sequence[TrainingRow], weights: WeightsSource) -> RowNumbers:
        """Return the logprobs at temperature 1, whatever the samples' temperature: vLLM has no other of a prompt.

        Rows have to be shorter than the context by a token. Raises CallError and PolicyError.
        """

        def score(name: str, version: str) -> RowNumbers:
            scores: list[NDArray[np.float64]] = []
            for row in rows:
                ids, count = row.prompt_ids + row.completion_ids, len(row.completion_ids)
                scores.append(np.array(self._server.score(name, version, ids, count, _REQUEST_SECONDS)))
            return scores

        return self._with_weights(weights, score)

    def use(self, adapter: Path | None) -> str:
        """Make an adapter, or the base, the live weights. Returns the version. Raises CallError and PolicyError."""
        with self._lock:
            self._served(adapter)
            self._retire_live()
            self._used, self._versions = adapter, 0
            return self.version

    def publish(self, write: Callable[[Path], None]) -> str:
        """Make the adapter that `write` writes the live weights, under a new name; return the version.

        The one before is unloaded once its requests have ended. Raises CallError and PolicyError.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        folder = tempfile.TemporaryDirectory(dir=self._folder, prefix="live-")
        Path(folder.name).chmod(0o755)  # the server may run as another user
        adapter = Path(folder.name) / "adapter"
        write(adapter)
        with self._lock:
            self._names += 1
            name = f"{self._prefix}-{self._names}"
            self._load(name, adapter)
            self._retire_live()
            self._versions += 1
            self._live = _Published(name, self.version, folder)
            return self.version

    def check_adapter(self, layer: str, inputs: int, outputs: int, rank: int) -> None:
        """Check that the server takes an adapter of this rank, by one of a single layer. Raises PolicyError."""
        import torch
        from safetensors.torch import save_file

        config = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": rank, "lora_alpha": rank}
        config |= {"base_model_name_or_path": self._base_id, "target_modules": [layer.rpartition(".")[2]]}
        self._folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=self._folder, prefix="check-") as path:
            folder, shapes = Path(path), {"lora_A": (rank, inputs), "lora_B": (outputs, rank)}
            folder.chmod(0o755)
            tensors = {f"base_model.model.{layer}.{part}.weight": torch.zeros(shape) for part, shape in shapes.items()}
            save_file(tensors, folder / WEIGHTS_FILE)
            (folder / CONFIG_FILE).write_text(json.dumps(config), encoding="utf-8")
            try:
                self._server.load(f"{self._prefix}-check", folder.resolve())
                self._server.unload(f"{self._prefix}-check")
            except CallError as failed:
                raise PolicyError(
                    f"{self.address} takes no adapter of trainer.lora.rank={rank}: {failed.message}; "
                    f"start it with --max-lora-rank {rank}, or lower the rank"
                ) from None

    def check_logprobs(self, prompt_ids: Sequence[int]) -> None:
        """Raise CallError if the server's logprobs do not follow the temperature, as importance ratios need."""
        settings = [(self._base_id, prompt_ids, temperature, _STARTUP_SECONDS) for temperature in (1.0, 2.0)]
        range_at_1, range_at_2 = (self._server.logprob_range(*values) for values in settings)
        if range_at_1 > _FLAT_NATS and range_at_2 > 0.75 * range_at_1:  # at temperature 2 it is half as wide
            remedy = "start it with --logprobs-mode processed_logprobs"
            raise CallError("bad_request", f"its logprobs ignore the temperature: {remedy}")

    def close(self) -> None:
        """Unload our adapters from the server, if it still listens and is not busy: nobody waits for that."""
        if not self._lock.acquire(timeout=_CLOSE_SECONDS):
            return
        self._under_way.clear()
        published = [*self._retired.values(), *([self._live] if self._live else [])]
        self._live = None
        self._retired.clear()
        with suppress(CallError):
            for name in [*(entry.name for entry in published), *self._loaded]:
                self._server.unload(name, _CLOSE_SECONDS)
        self._loaded.clear()
        for entry in published:
            entry.folder.cleanup()
        self._lock.release()

    def _with_weights(self, weights: WeightsSource, ask: Callable[[str, str], Result]) -> Result:
        """Ask with the name and version of the weights at the server; load them again if the server forgot them."""
        try:
            with self._under_way_with(weights) as (name, version):
                return ask(name, version)
        except CallError as failed:
            if failed.status != 404:
                raise
        with self._lock:  # the server was started again, or dropped the adapter
            self._loaded.clear()
            if self._live is not None and isinstance(weights, LiveWeights):
                self._load(self._live.name, Path(self._live.folder.name) / "adapter")
        with self._under_way_with(weights) as (name, version):
            return ask(name, version)

    @contextmanager
    def _under_way_with(self, weights: WeightsSource) -> Iterator[tuple[str, str]]:
        """Yield name and version of the weights at the server, which are not unloaded meanwhile."""
        with self._lock:
            live = self._live if isinstance(weights, LiveWeights) else None
            if live is not None:
                name, version = live.name, live.version
            else:
                name, version = self._served(self._used if isinstance(weights, LiveWeights) else weights)
            self._under_way[name] += 1
        try:
            yield name, version
        finally:
            with self._lock:
                self._under_way[name] -= 1
                if not self._under_way[name] and (retired := self._retired.pop(name, None)):
                    self._unload(retired)

    def _served(self, adapter: Path | None) -> tuple[str, str]:
        """Return an adapter's name at the server: the hash of its content, so a changed adapter has another name."""
        if adapter is None:
            return self._base_id, BASE_VERSION
        version = adapter_version(adapter)
        name = f"sia-{version}"
        if name not in self._loaded:
            check_adapter_base(adapter, self._base_id, self.base_sha256, trust_base=self._trust_base)
            self._load(name, adapter)
            self._loaded[name] = None
            while len(self._loaded) > _MAX_SERVER_ADAPTERS:
                self._server.unload(self._loaded.popitem(last=False)[0])
        self._loaded.move_to_end(name)
        return name, version

    def _load(self, name: str, folder: Path) -> None:
        """Load an adapter. Raises CallError, and PolicyError if the server refuses it."""
        try:
            self._server.load(name, folder.resolve())
        except CallError as failed:
            if failed.status is None:  # no answer at all says nothing about the adapter
                raise
            raise PolicyError(f"{self.address} does not take the adapter {folder}: {failed.message}") from None

    def _retire_live(self) -> None:
        """Unload the live version of the adapter under training now, or after its last request."""
        live, self._live = self._live, None
        if live is not None and self._under_way[live.name]:
            self._retired[live.name] = live
        elif live is not None:
            self._unload(live)

    def _unload(self, published: _Published) -> None:
        with suppress(CallError):  # a server that was started again has it no more
            self._server.unload(published.name)
        published.folder.cleanup()


class VllmPolicy(RemotePolicy):
    """A policy at a vLLM server, with a training copy of the weights in this process."""

    sampler: VllmSampler

    def __init__(
        self,
        spec: PolicyConfig,
        folder: Path,
        load: Callable[[], PolicyEngine],
        servers: ManagedServers | SharedServers | None = None,
    ) -> None:
        """Connect to the server, or wait for `servers`, and check the logprobs. Raises PolicyError.

        Versions of the adapter under training are written to `folder`, which the server has to see under the same path;
        `load` creates the training copy.
        """
        check_policy_packages()
        self._load, self._copy_lock, self._copy = load, threading.Lock(), None
        tokenizer = load_tokenizer(spec.base, base_folder(spec.base, weights=False))
        if servers is not None:
            servers.start()
        try:
            server = servers or VllmServer(str(spec.base_url))
            sampler = VllmSampler(spec.base, server, folder, trust_base=spec.trust_base)
            sampler.check_logprobs(ChatTokenizer(tokenizer).prompt_ids([{"role": "user", "content": "1"}]))
        except CallError as failed:
            where = "vllm" if servers else f"base_url={spec.base_url}"
            if isinstance(servers, ManagedServers):
                servers.close()
            raise PolicyError(f"target_agent.policy.{where}: {failed.message}") from None
        super().__init__(spec, tokenizer, sampler)

    @contextmanager
    def learner(
        self,
        lora: LoraSettings,
        start: Path | None,
        seed: int,
        *,
        critic: bool,
        work: Path,
        temperature: float = 1.0,
        max_length: int | None = None,
    ) -> Iterator[Learner]:
        """Yield the learner of the training copy, or of a shard; `publish` makes the server answer with its weights."""
        settings: dict[str, Any] = {"temperature": temperature, "max_length": max_length, "serve": self._publish}
        settings |= {"critic": critic, "work": work}
        if process_count() > 1:  # trainer.shards: several copies would each want to be served
            from sia_runner.policy.sharded_learner import sharded_learner

            own = sharded_learner(self.spec, self.base_sha256, lora, start, seed, **settings)
        else:
            own = self._training_copy().learner(lora, start, seed, **settings)
        with own as learner:
            yield learner

    def _publish(self, write: Callable[[Path], None]) -> str:
        try:
            return self.sampler.publish(write)
        except CallError as failed:
            raise ProviderDown(f"vllm at {self.sampler.address}: {failed.message}") from None

    def _training_copy(self) -> PolicyEngine:
        with self._copy_lock:
            if self._copy is None:
                self._copy = self._load()
            return self._copy
