"""`backend=vllm`: a vLLM server answers; the weights that are trained live in this process, from the first training on.

Each version of the adapter under training is a folder that the server loads in place of the one before. What is said to
the server are token ids, made by the base's own chat template as for every other backend: a server's template may be
another one (it is for gpt-oss), and a prompt has one definition.
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

SECONDS = 3600.0  # of one request: a queue on slow hardware is no fault
_START = 60.0  # of the first requests: a server that has just come up compiles
_FLAT = 0.01  # nats: nothing can be seen of a flatter distribution
_MOST = 4  # adapters kept on the server


class Vllm:
    """See training.protocol.Policy; `answer` and `use` may be called from any thread. `place`: where versions of the
    adapter under training are written, on a file system that the server reads too. `load` makes the training copy."""

    def __init__(self, spec: PolicySpec, place: Path, load: Callable[[], Engine]) -> None:
        """Raises PolicyError."""
        check_installed()
        from sia_runner.models.policy.chat import Chat
        from sia_runner.models.policy.checkpoint import folder_of, tokenizer_of

        self.spec, self.base_id, self.base_url = spec, spec.base, str(spec.base_url)
        self.tokenizer = tokenizer_of(spec.base, folder_of(spec.base, weights=False))
        self._chat, self._place, self._load = Chat(self.tokenizer), place, load
        self._server, self._lock = Server(self.base_url), threading.RLock()
        self._name = f"sia-live-{uuid.uuid4().hex[:12]}"  # of what is trained here; other runs may use the server too
        self._used: Path | None = None
        self._training: Engine | None = None
        self._live: Written | None = None  # what the server has of the adapter under training
        self._versions = self._asked = 0  # written since the last `use`; asked without a seed
        self._loaded: OrderedDict[str, None] = OrderedDict()  # names at the server; the latest used one last
        try:
            self.context = self._server.context(spec.base, _START)
            self._check_logprobs()
        except Failed as failed:
            raise PolicyError(f"target_agent.policy.base_url={self.base_url}: {failed.message}") from None

    @cached_property
    def base_sha256(self) -> str:
        from sia_runner.models.policy.checkpoint import folder_of, weights_sha256

        return weights_sha256(folder_of(self.base_id))

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
        """Of the live weights: an adapter's hash or "base", and how many versions training made of it since."""
        from sia_runner.models.policy.adapters import BASE, version_of

        of = version_of(self._used) if self._used else BASE
        return f"{of}+{self._versions}" if self._versions else of

    @contextmanager
    def training(self) -> Iterator[Any]:
        """The training copy in train mode; the server is told of its new weights before it is asked again."""
        with self._trainable().training() as model:
            try:
                yield model
            finally:
                self._live = None

    def use(self, adapter: Path | None) -> str:
        """Make an adapter, or the base, the live weights. Returns the version. Raises PolicyError."""
        with self._lock:
            try:
                self._of(adapter)
            except Failed as failed:
                raise ProviderDown(f"vllm at {self._server.address}: {failed.message}") from None
            with suppress(Failed):
                self._end_live()
            self._used, self._versions = adapter, 0
            return self.version

    def close(self) -> None:
        """Leave the server as it was, as far as it listens."""
        with self._lock, suppress(Failed):
            self._end_live()
            while self._loaded:
                self._server.unload(self._loaded.popitem()[0])

    def answer(self, ask: Ask) -> Answer:
        """Raises Failed, and PolicyError for an adapter that cannot be served."""
        prompt_ids = self._chat.prompt_within(ask.messages, self.context)
        model = self._model(ask.weights)
        try:
            return self._ask(ask, prompt_ids, model)
        except Failed as failed:
            if failed.status != 404:
                raise
        self._forget()  # the server was started again, or let the adapter go
        return self._ask(ask, prompt_ids, self._model(ask.weights))

    def _ask(self, ask: Ask, prompt_ids: list[int], model: Model) -> Answer:
        name, version = model
        made = self._server.complete(
            name,
            version,
            prompt_ids,
            SECONDS,
            max_tokens=min(ask.max_tokens, self.context - len(prompt_ids)),
            temperature=ask.temperature,
            top_p=ask.top_p,
            seed=self._seed(ask),
            stop=list(ask.stop),
        )
        sampled = Sampled(tuple(prompt_ids), made.ids, made.logprobs, made.finish_reason, version)
        return Answer(self._chat.text(made.ids, ask.stop), sampled)

    def _model(self, weights: Weights) -> Model:
        with self._lock:
            if not isinstance(weights, Live):
                return self._of(weights)
            if self._training is None or not self._is_trained():
                return self._of(self._used)
            if self._live is None:
                self._versions += 1
                self._live = Written(self._place, self._training, self._server, (self._name, self.version))
            return self._live.model

    def _of(self, adapter: Path | None) -> Model:
        """An adapter's name at the server, which is its content's: a copy is the same one, a changed one is not."""
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
        """What was trained here is not asked for any more under its passing name."""
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

    def _seed(self, ask: Ask) -> int:
        if ask.seed is not None:
            return ask.seed
        with self._lock:
            self._asked += 1
            return int.from_bytes(hashlib.sha256(f"counted {self._asked}".encode()).digest()[:4]) >> 1

    def _check_logprobs(self) -> None:
        """Those of the distribution that is drawn from, or the ratio to the trained weights is of two temperatures."""
        ids = self._chat.prompt_ids([{"role": "user", "content": "1"}])
        one, two = (self._server.spread(self.base_id, ids, temperature, _START) for temperature in (1.0, 2.0))
        if one > _FLAT and two > 0.75 * one:  # at temperature 2 it is half as wide
            remedy = "start it with --logprobs-mode processed_logprobs"
            raise Failed("bad_request", f"its logprobs ignore the temperature: {remedy}")
