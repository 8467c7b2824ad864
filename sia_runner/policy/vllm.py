"""The policy `backend=vllm`: a vLLM server answers, and the trained weights live in this process.

Each version of the adapter under training is a folder that the server loads in place of the one before. The server gets
token ids, since its chat template may differ from the base's own (gpt-oss's does).
"""

import hashlib
import json
import tempfile
import threading
import uuid
from collections import OrderedDict
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import Any

from sia_runner.config.training import PolicyConfig
from sia_runner.policy.adapters import BASE_VERSION, adapter_version, check_adapter_base
from sia_runner.policy.base_model import ChatTokenizer, base_folder, load_tokenizer, weights_sha256
from sia_runner.policy.engine import PolicyEngine, as_call_error
from sia_runner.policy.vllm_client import VllmServer
from sia_runner.records import SampledCall
from sia_runner.wire.adapter_files import CONFIG_FILE, WEIGHTS_FILE, write_adapter
from sia_runner.wire.failures import CallError
from sia_runner.wire.grants import ProviderDown
from sia_runner.wire.policy import LiveWeights, PolicyError, PolicyRequest, WeightsSource, check_policy_packages

_ServedModel = tuple[str, str]  # name at the server, and version of the weights

_REQUEST_SECONDS = 3600.0  # of one request: slow hardware may queue for long
_STARTUP_SECONDS = 60.0  # of the first requests: a new server compiles first
_CLOSE_SECONDS = 2.0  # of the requests at the end, which may be that of an interrupted run
_FLAT_NATS = 0.01  # nats: a flatter distribution shows no effect of the temperature
_MAX_SERVER_ADAPTERS = 4  # adapters on the server at the same time


class VllmPolicy:
    """A TrainablePolicy at a vLLM server; `answer` and `use` may be called from any thread."""

    def __init__(self, spec: PolicyConfig, folder: Path, load: Callable[[], PolicyEngine]) -> None:
        """Connect to the server and check its logprobs. Raises PolicyError.

        Versions of the adapter under training are written to `folder`, which the server has to see under the same path;
        `load` creates the training copy.
        """
        check_policy_packages()
        self.spec, self.base_id, self.base_url = spec, spec.base, str(spec.base_url)
        self.tokenizer = load_tokenizer(spec.base, base_folder(spec.base, weights=False))
        self._chat, self._folder, self._load = ChatTokenizer(self.tokenizer), folder, load
        self._server, self._lock = VllmServer(self.base_url), threading.RLock()
        self._name = f"sia-live-{uuid.uuid4().hex[:12]}"  # of the trained adapter; other runs may use the same server
        self._used: Path | None = None
        self._training: PolicyEngine | None = None
        # The adapter under training as the server has it, and its folder, which the server may read again.
        self._live: tuple[_ServedModel, tempfile.TemporaryDirectory[str]] | None = None
        self._versions = self._unseeded = 0  # versions since the last `use`; requests without a seed
        self._loaded: OrderedDict[str, None] = OrderedDict()  # names at the server; the most recently used one last
        try:
            self.context = self._server.context(spec.base, _STARTUP_SECONDS)
            self._check_logprobs()
        except CallError as failed:
            raise PolicyError(f"target_agent.policy.base_url={self.base_url}: {failed.message}") from None

    @cached_property
    def base_sha256(self) -> str:
        """The hash of the base's weights."""
        return weights_sha256(base_folder(self.base_id))

    @property
    def model(self) -> Any:
        """The training copy: a transformers model, PEFT's while it is trained."""
        return self._trainable().model

    @model.setter
    def model(self, model: Any) -> None:
        self._trainable().model = model
        self._live = None

    @property
    def version(self) -> str:
        """The version of the live weights: an adapter's hash or "base", and the number of versions trained since."""
        base_version = adapter_version(self._used) if self._used else BASE_VERSION
        return f"{base_version}+{self._versions}" if self._versions else base_version

    @contextmanager
    def training(self) -> Iterator[Any]:
        """Yield the training copy in train mode; the next request makes the server load the new weights."""
        with self._trainable().training() as model:
            try:
                yield model
            finally:
                self._live = None

    def use(self, adapter: Path | None) -> str:
        """Make an adapter, or the base, the live weights. Returns the version. Raises PolicyError."""
        with self._lock:
            try:
                self._served(adapter)
            except CallError as failed:
                raise ProviderDown(f"vllm at {self._server.address}: {failed.message}") from None
            with suppress(CallError):
                self._end_live()
            self._used, self._versions = adapter, 0
            return self.version

    def check_adapter(self, layer: str, inputs: int, outputs: int, rank: int) -> None:
        """Check that the server takes an adapter of this rank, by one of a single layer. Raises PolicyError."""
        import torch
        from safetensors.torch import save_file

        config = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": rank, "lora_alpha": rank}
        config |= {"base_model_name_or_path": self.base_id, "target_modules": [layer.rpartition(".")[2]]}
        self._folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=self._folder, prefix="check-") as name:
            folder, shapes = Path(name), {"lora_A": (rank, inputs), "lora_B": (outputs, rank)}
            folder.chmod(0o755)  # the server may run as another user
            tensors = {f"base_model.model.{layer}.{part}.weight": torch.zeros(shape) for part, shape in shapes.items()}
            save_file(tensors, folder / WEIGHTS_FILE)
            (folder / CONFIG_FILE).write_text(json.dumps(config), encoding="utf-8")
            try:
                self._server.load(self._name, folder.resolve())
                self._server.unload(self._name)
            except CallError as failed:
                raise PolicyError(
                    f"{self._server.address} takes no adapter of trainer.lora.rank={rank}: {failed.message}; "
                    f"start it with --max-lora-rank {rank}, or lower the rank"
                ) from None

    def close(self) -> None:
        """Unload our adapters from the server, if it still listens and is not busy: nobody waits for that."""
        if not self._lock.acquire(timeout=_CLOSE_SECONDS):
            return
        with suppress(CallError):
            self._end_live(_CLOSE_SECONDS)
            while self._loaded:
                self._server.unload(self._loaded.popitem()[0], _CLOSE_SECONDS)
        self._lock.release()

    def answer(self, request: PolicyRequest) -> SampledCall:
        """Answer one request. Raises CallError, and PolicyError for an adapter that cannot be served."""
        prompt_ids, seed = self._chat.prompt_ids(request.messages, self.context), request.seed
        if seed is None:
            with self._lock:
                self._unseeded += 1
                seed = int.from_bytes(hashlib.sha256(f"counted {self._unseeded}".encode()).digest()[:4]) >> 1
        settings = {
            "max_tokens": min(request.max_tokens, self.context - len(prompt_ids)),
            "temperature": request.temperature,
            "top_p": request.top_p,
            "seed": seed,
            "stop": list(request.stop),
        }
        name, version = self._model(request.weights)
        try:
            answer = self._server.complete(name, version, prompt_ids, _REQUEST_SECONDS, **settings)
        except CallError as failed:
            if failed.status != 404:
                raise
            with self._lock:  # the server was restarted, or dropped the adapter
                self._loaded.clear()
                self._live = None
            name, version = self._model(request.weights)
            answer = self._server.complete(name, version, prompt_ids, _REQUEST_SECONDS, **settings)
        return SampledCall(tuple(prompt_ids), *answer, version, self._chat.text(answer[0], request.stop))

    def _model(self, weights: WeightsSource) -> _ServedModel:
        with self._lock:
            if not isinstance(weights, LiveWeights):
                return self._served(weights)
            if self._training is None or not hasattr(self._training.model, "peft_config"):  # no adapter yet
                return self._served(self._used)
            if self._live is None:
                self._versions += 1
                self._live = (self._name, self.version), self._load_live(self._training)
            return self._live[0]

    def _load_live(self, training: PolicyEngine) -> tempfile.TemporaryDirectory[str]:
        self._folder.mkdir(parents=True, exist_ok=True)
        folder = tempfile.TemporaryDirectory(dir=self._folder, prefix="live-")
        Path(folder.name).chmod(0o755)  # the server may run as another user
        adapter = Path(folder.name) / "adapter"
        (name,) = training.model.active_adapters
        write_adapter(training.model, name, adapter, {"base_id": self.base_id, "base_sha256": training.base_sha256})
        self._load_on_server(self._name, adapter)
        return folder

    def _load_on_server(self, name: str, folder: Path) -> None:
        """Load an adapter. Raises CallError, and PolicyError if the server refuses it."""
        try:
            self._server.load(name, folder.resolve())
        except CallError as failed:
            if failed.status is None:  # no answer at all says nothing about the adapter
                raise
            address = self._server.address
            raise PolicyError(f"{address} does not take the adapter {folder}: {failed.message}") from None

    def _served(self, adapter: Path | None) -> _ServedModel:
        """Return an adapter's name at the server: the hash of its content, so a changed adapter has another name."""
        if adapter is None:
            return self.base_id, BASE_VERSION
        version = adapter_version(adapter)
        name = f"sia-{version}"
        if name not in self._loaded:
            check_adapter_base(adapter, self.base_id, self.base_sha256)
            self._load_on_server(name, adapter)
            self._loaded[name] = None
            while len(self._loaded) > _MAX_SERVER_ADAPTERS:
                self._server.unload(self._loaded.popitem(last=False)[0])
        self._loaded.move_to_end(name)
        return name, version

    def _end_live(self, *seconds: float) -> None:
        """Unload the adapter under training, whose temporary name is not used any more."""
        self._live = None
        if self._versions:
            self._server.unload(self._name, *seconds)

    def _trainable(self) -> PolicyEngine:
        with self._lock:
            if self._training is None:
                self._training = self._load()
            return self._training

    def _check_logprobs(self) -> None:
        """Check that the server's logprobs follow the temperature, as importance ratios need."""
        ids = self._chat.prompt_ids([{"role": "user", "content": "1"}])
        settings = [(self.base_id, ids, temperature, _STARTUP_SECONDS) for temperature in (1.0, 2.0)]
        range_at_1, range_at_2 = (self._server.logprob_range(*values) for values in settings)
        if range_at_1 > _FLAT_NATS and range_at_2 > 0.75 * range_at_1:  # at temperature 2 it is half as wide
            remedy = "start it with --logprobs-mode processed_logprobs"
            raise CallError("bad_request", f"its logprobs ignore the temperature: {remedy}")


class RequestForwarder:
    """Like the request batcher, but vLLM batches for us: each request has a thread; the gateway bounds their number."""

    def __init__(self, load: Callable[[], VllmPolicy]) -> None:
        self._load, self._starting = load, threading.Lock()
        self._policy: VllmPolicy | None = None

    def start(self) -> VllmPolicy:
        """Return the policy, loaded on the first call. Raises PolicyError."""
        with self._starting:
            if self._policy is None:
                self._policy = self._load()
            return self._policy

    def submit(self, request: PolicyRequest) -> Future[SampledCall]:
        """Send a request; `start` comes first. The future raises CallError."""
        future: Future[SampledCall] = Future()
        future.set_running_or_notify_cancel()  # a request in progress cannot be cancelled
        threading.Thread(target=self._answer, args=[request, future], name="vllm", daemon=True).start()
        return future

    def close(self) -> None:
        """Close the policy if it was loaded."""
        with self._starting:
            if self._policy is not None:
                self._policy.close()

    def _answer(self, request: PolicyRequest, future: Future[SampledCall]) -> None:
        try:
            future.set_result(self.start().answer(request))
        except Exception as error:  # noqa: BLE001 - the error goes to its caller
            future.set_exception(as_call_error(error))
