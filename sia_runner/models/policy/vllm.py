"""The policy `backend=vllm`: a vLLM server answers, and the trained weights live in this process.

Each version of the adapter under training is a folder that the server loads in place of the one before. The server gets
token ids, made with the base's own chat template as for every other backend: a server's template may differ (gpt-oss's
does), and a prompt has one definition.
"""

import hashlib
import threading
import uuid
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import Any

from sia_runner.models.failures import Failed
from sia_runner.models.policy.ask import Answer, Ask, Live, PolicyError, Weights, check_installed
from sia_runner.models.policy.engine import Engine
from sia_runner.models.policy.vllm_api import Server
from sia_runner.models.policy.vllm_weights import Model, Written, load
from sia_runner.models.protocol import ProviderDown
from sia_runner.records import Sampled
from sia_runner.schema.training import PolicySpec

SECONDS = 3600.0  # of one request: slow hardware may queue for long
_START = 60.0  # of the first requests: a new server compiles first
_FLAT = 0.01  # nats: a flatter distribution shows no effect of the temperature
_MOST = 4  # adapters on the server at the same time


class Vllm:
    """A policy at a vLLM server (see training.protocol.Policy); `answer` and `use` may be called from any thread.

    `folder`: where versions of the adapter under training are written, on a file system that the server reads too.
    `load` creates the training copy.
    """

    def __init__(self, spec: PolicySpec, folder: Path, load: Callable[[], Engine]) -> None:
        """Connect to the server and check its logprobs. Raises PolicyError."""
        check_installed()
        from sia_runner.models.policy.chat import Chat
        from sia_runner.models.policy.checkpoint import folder_of, tokenizer_of

        self.spec, self.base_id, self.base_url = spec, spec.base, str(spec.base_url)
        self.tokenizer = tokenizer_of(spec.base, folder_of(spec.base, weights=False))
        self._chat, self._folder, self._load = Chat(self.tokenizer), folder, load
        self._server, self._lock = Server(self.base_url), threading.RLock()
        # Name of the trained adapter; other runs may use the same server.
        self._name = f"sia-live-{uuid.uuid4().hex[:12]}"
        self._used: Path | None = None
        self._training: Engine | None = None
        self._live: Written | None = None  # the adapter under training, as the server has it
        self._versions = self._unseeded = 0  # versions since the last `use`; requests without a seed
        self._loaded: OrderedDict[str, None] = OrderedDict()  # names at the server; the most recently used one last
        try:
            self.context = self._server.context(spec.base, _START)
            self._check_logprobs()
        except Failed as failed:
            raise PolicyError(f"target_agent.policy.base_url={self.base_url}: {failed.message}") from None

    @cached_property
    def base_sha256(self) -> str:
        """The hash of the base's weights."""
        from sia_runner.models.policy.checkpoint import folder_of, weights_sha256

        return weights_sha256(folder_of(self.base_id))

    @property
    def model(self) -> Any:
        """The training copy: a transformers model, PEFT's while it is trained."""
        return self._trainable().model

    @model.setter
    def model(self, model: Any) -> None:
        """Replace the training copy's model."""
        self._trainable().model = model
        self._live = None

    @property
    def version(self) -> str:
        """The version of the live weights: an adapter's hash or "base", and the number of versions trained since."""
        from sia_runner.models.policy.adapters import BASE, version_of

        base_version = version_of(self._used) if self._used else BASE
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
            except Failed as failed:
                raise ProviderDown(f"vllm at {self._server.address}: {failed.message}") from None
            with suppress(Failed):
                self._end_live()
            self._used, self._versions = adapter, 0
            return self.version

    def close(self) -> None:
        """Unload our adapters from the server, if it still listens."""
        with self._lock, suppress(Failed):
            self._end_live()
            while self._loaded:
                self._server.unload(self._loaded.popitem()[0])

    def answer(self, request: Ask) -> Answer:
        """Answer one request. Raises Failed, and PolicyError for an adapter that cannot be served."""
        prompt_ids = self._chat.prompt_within(request.messages, self.context)
        model = self._model(request.weights)
        try:
            return self._ask(request, prompt_ids, model)
        except Failed as failed:
            if failed.status != 404:
                raise
        self._forget()  # the server was restarted, or dropped the adapter
        return self._ask(request, prompt_ids, self._model(request.weights))

    def _ask(self, request: Ask, prompt_ids: list[int], model: Model) -> Answer:
        name, version = model
        completion = self._server.complete(
            name,
            version,
            prompt_ids,
            SECONDS,
            max_tokens=min(request.max_tokens, self.context - len(prompt_ids)),
            temperature=request.temperature,
            top_p=request.top_p,
            seed=self._seed(request),
            stop=list(request.stop),
        )
        sampled = Sampled(tuple(prompt_ids), completion.ids, completion.logprobs, completion.finish_reason, version)
        return Answer(self._chat.text(completion.ids, request.stop), sampled)

    def _model(self, weights: Weights) -> Model:
        with self._lock:
            if not isinstance(weights, Live):
                return self._served(weights)
            if self._training is None or not self._is_trained():
                return self._served(self._used)
            if self._live is None:
                self._versions += 1
                self._live = Written(self._folder, self._training, self._server, (self._name, self.version))
            return self._live.model

    def _served(self, adapter: Path | None) -> Model:
        """Return an adapter's name at the server.

        The name is the hash of its content, so a copy has the same name and a changed adapter has not.
        """
        from sia_runner.models.policy.adapters import BASE, check_base, version_of

        if adapter is None:
            return self.base_id, BASE
        version = version_of(adapter)
        name = f"sia-{version}"
        if name not in self._loaded:
            check_base(adapter, self.base_id, self.base_sha256)
            load(self._server, name, adapter)
            self._loaded[name] = None
            while len(self._loaded) > _MOST:
                self._server.unload(self._loaded.popitem(last=False)[0])
        self._loaded.move_to_end(name)
        return name, version

    def _end_live(self) -> None:
        """Unload the adapter under training, whose temporary name is not used any more."""
        self._live = None
        if self._versions:
            self._server.unload(self._name)

    def _forget(self) -> None:
        with self._lock:
            self._loaded.clear()
            self._live = None

    def _trainable(self) -> Engine:
        with self._lock:
            if self._training is None:
                self._training = self._load()
            return self._training

    def _is_trained(self) -> bool:
        from sia_runner.models.policy.live import is_trained

        return self._training is not None and is_trained(self._training.model)

    def _seed(self, request: Ask) -> int:
        if request.seed is not None:
            return request.seed
        with self._lock:
            self._unseeded += 1
            return int.from_bytes(hashlib.sha256(f"counted {self._unseeded}".encode()).digest()[:4]) >> 1

    def _check_logprobs(self) -> None:
        """Check that the server's logprobs follow the temperature.

        Otherwise the importance ratio would compare two temperatures.
        """
        ids = self._chat.prompt_ids([{"role": "user", "content": "1"}])
        range_at_1, range_at_2 = (
            self._server.logprob_range(self.base_id, ids, temperature, _START) for temperature in (1.0, 2.0)
        )
        if range_at_1 > _FLAT and range_at_2 > 0.75 * range_at_1:  # at temperature 2 it is half as wide
            remedy = "start it with --logprobs-mode processed_logprobs"
            raise Failed("bad_request", f"its logprobs ignore the temperature: {remedy}")
