"""A base at a Tinker service, and the sampler: of the base, of adapters, and of the weights under training.

Nothing of the base but its tokenizer and its configuration is read here.
"""

import hashlib
import json
import re
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sia_runner.config.training import PolicyConfig
from sia_runner.policy.adapters import BASE_VERSION, adapter_version, check_adapter_base
from sia_runner.policy.base_model import ChatTokenizer, base_folder, load_tokenizer, text_limits
from sia_runner.policy.tinker_client import ModelSettings, TinkerClient, TinkerModel, TinkerSampling
from sia_runner.records import Json, as_object
from sia_runner.wire.adapter_files import ORIGIN_FILE
from sia_runner.wire.failures import CallError
from sia_runner.wire.learning import RowNumbers, Sample, SampleSettings, TrainingRow
from sia_runner.wire.policy import LiveWeights, PolicyError, TrainingCharge, WeightsSource, check_tinker_packages
from sia_runner.wire.providers import is_private

EXACT_NATS = 1e-4  # nats: two results of the same weights may differ by that much
_MAX_SAMPLERS = 2  # adapters served at the same time: a server may hold three models, of which one is being trained
_NOT_LOADED = re.compile(r"not loaded", re.I)
_NEUTRAL_TEXT = (
    "The sum of one and two is three, water boils at a hundred degrees, and most trees lose their leaves in autumn."
)


class ServedBase:
    """A base at a service: what its sampler and its learners have in common."""

    def __init__(self, spec: PolicyConfig, client: TinkerClient) -> None:
        """Connect, and check that the service trains the base. Raises PolicyError."""
        check_tinker_packages()
        self.base_id, self.client, self.concurrency = spec.base, client, spec.tinker.concurrency
        folder = base_folder(spec.base, weights=False)
        self.tokenizer = load_tokenizer(spec.base, folder)
        limits = text_limits(folder, self.tokenizer)
        self.end_ids = sorted(limits.end_ids)
        self.chat = ChatTokenizer(self.tokenizer, limits.vocabulary)  # an unknown token id is never answered
        self.context = _context_of(client, spec.base) or limits.context
        # a server of one's own may come back at another address, with the same folder
        self.place = "a private network" if is_private(client.url) else client.url
        identity = f"tinker:{self.place}:{spec.base}:{hashlib.sha256(_vocabulary(self.tokenizer)).hexdigest()}"
        self.base_sha256 = hashlib.sha256(identity.encode()).hexdigest()
        # Reserves (prefill, trained) tokens in the ledger before each training call; nothing is charged without one.
        self.charge: TrainingCharge = lambda prefill, trained: nullcontext()

    def service_of(self, adapter: Path) -> Json:
        """Return where the service has an adapter. Raises PolicyError, also for an adapter trained elsewhere."""
        check_adapter_base(adapter, self.base_id, self.base_sha256)
        service = as_object(json.loads((adapter / ORIGIN_FILE).read_text(encoding="utf-8")).get("service"))
        if not service.get("state") or not service.get("sampler"):
            raise PolicyError(
                f"adapter {adapter} was not trained at {self.client.address}: nothing can be uploaded to a service, "
                "so it can be used with backend=peft or vllm only"
            )
        return service

    def neutral_row(self) -> TrainingRow:
        """Return a row of no task: what is expected with an adapter must tell nothing of the questions."""
        ids = self.chat.prompt_ids([{"role": "user", "content": "1"}])
        words = self.tokenizer(_NEUTRAL_TEXT, add_special_tokens=False)["input_ids"]
        return TrainingRow(tuple(ids), tuple(words))

    def probe_rows(self) -> tuple[TrainingRow, TrainingRow]:
        """Return two rows for `measure_reduction`."""
        row = self.neutral_row()
        half = len(row.completion_ids) // 2
        one, other = row.completion_ids[:half], row.completion_ids[half:]
        return TrainingRow(row.prompt_ids, one), TrainingRow(row.prompt_ids, other)


class TinkerSampler:
    """The Sampler of a service. Only the newest version of weights under training is ever asked.

    A server may answer an older sampling client with newer weights, and may put the older ones into the model under
    training; so requests for live weights are refused between a step and the next `publish`.
    """

    def __init__(self, served: ServedBase) -> None:
        self._served, self._client, self._lock = served, served.client, threading.RLock()
        self.address, self.context = served.client.address, served.context
        self._used: Path | None = None
        self._live: TinkerSampling | None = None  # of the model under training
        self._training = False  # a learner is at work
        self._publications = 0
        self._samplers: OrderedDict[str, TinkerSampling] = OrderedDict()  # by version; the latest used one last
        self._models: dict[str, TinkerModel] = {}  # by version: what a server wants live to sample from
        self._slots = threading.BoundedSemaphore(served.concurrency)
        self._idle, self._under_way = threading.Condition(self._lock), 0  # samples of the weights under training

    @property
    def base_sha256(self) -> str:
        """The hash that identifies base, tokenizer and service."""
        return self._served.base_sha256

    @property
    def version(self) -> str:
        """The version of the live weights: an adapter's hash or "base", and the number of publications since."""
        base_version = adapter_version(self._used) if self._used else BASE_VERSION
        return f"{base_version}+{self._publications}" if self._publications else base_version

    def use(self, adapter: Path | None) -> str:
        """Make an adapter, or the base, the live weights. Returns the version. Raises PolicyError."""
        if adapter is not None:
            self._served.service_of(adapter)
        with self._lock:
            self._used, self._live, self._publications = adapter, None, 0
            return self.version

    def begin_step(self) -> None:
        """Refuse live weights from now on, and wait for their answers under way: they are about to change."""
        with self._idle:
            self._live, self._training = None, True
            self._idle.wait_for(lambda: not self._under_way, self._client.seconds)

    def publish(self, sampling: TinkerSampling) -> str:
        """Answer with this version of the weights under training."""
        with self._lock:
            self._live, self._training = sampling, True
            self._publications += 1
            return self.version

    def end_training(self) -> None:
        """Forget the model under training."""
        with self._lock:
            self._live, self._training = None, False

    def sample(
        self, prompt_ids: Sequence[int], count: int, settings: SampleSettings, weights: WeightsSource
    ) -> list[Sample]:
        """Return `count` completions of a prompt. Raises CallError."""
        end_ids = self._served.end_ids
        version, answers = self._ask(weights, lambda to: to.sample(prompt_ids, count, settings, end_ids))
        over = self._served.chat.stopped(settings.stop)
        samples: list[Sample] = []
        for ids, logprobs, reason in answers:
            end = next((n for n in range(1, len(ids)) if over(ids[:n])), len(ids)) if settings.stop else len(ids)
            stopped = end < len(ids) or reason == "stop" or over(ids)
            samples.append(Sample(ids[:end], logprobs[:end], "stop" if stopped else "length", version, len(ids)))
        return samples

    def score(self, rows: Sequence[TrainingRow], weights: WeightsSource) -> RowNumbers:
        """Return the logprobs that the served weights give to the rows' completion tokens. Raises CallError."""
        answers = [Future[NDArray[np.float64]]() for _ in rows]

        def ask(row: TrainingRow, answer: Future[NDArray[np.float64]]) -> None:
            try:
                answer.set_result(self._ask(weights, lambda to: to.score(row))[1])
            except Exception as error:  # noqa: BLE001 - handed over to who waits
                answer.set_exception(error)

        with self._served.charge(token_count(rows), len(rows)):  # the protocol generates a token after each
            for pair in zip(rows, answers, strict=True):  # an interrupted run does not wait for daemons
                threading.Thread(target=ask, args=pair, name="tinker", daemon=True).start()
            return [answer.result() for answer in answers]

    def close(self) -> None:
        """Free the models that were loaded to answer."""
        with self._lock:
            for model in self._models.values():
                model.unload()
            self._models.clear()
            self._samplers.clear()

    def _ask(self, weights: WeightsSource, ask: Callable[[TinkerSampling], Any]) -> tuple[str, Any]:
        with self._slots:
            with self._lock:
                version, adapter, sampling = self._sampling(weights)
                of_training = sampling is self._live
                self._under_way += of_training
            try:
                return version, ask(sampling)
            except CallError as failed:
                if adapter is None or not _NOT_LOADED.search(failed.message):
                    raise
            finally:
                with self._idle:
                    self._under_way -= of_training
                    self._idle.notify_all()
            with self._lock:  # the server samples from live models only: make one of the saved state
                if self._samplers.get(version) is sampling:
                    self._load(version, adapter)
                sampling = self._samplers[version]
            return version, ask(sampling)

    def _sampling(self, weights: WeightsSource) -> tuple[str, Path | None, TinkerSampling]:
        """Return the version, its adapter where that could be loaded, and what samples from it."""
        if isinstance(weights, LiveWeights):
            if self._live is not None:
                return self.version, None, self._live
            if self._training:
                raise CallError("unreachable", "the weights under training are not published", sent=False)
            weights = self._used
        version = adapter_version(weights) if weights else BASE_VERSION
        if version not in self._samplers:
            path = self._served.service_of(weights)["sampler"] if weights else None
            self._keep(version, self._client.sampler(path, self._served.base_id))
        self._samplers.move_to_end(version)
        return version, weights, self._samplers[version]

    def _load(self, version: str, adapter: Path) -> None:
        service = self._served.service_of(adapter)
        model = self._client.create(ModelSettings(**service["settings"]))
        self._models[version] = model
        load_proven(model, service, f"adapter {adapter}", self._served.charge)
        self._keep(version, model.publish())

    def _keep(self, version: str, sampling: TinkerSampling) -> None:
        self._samplers[version] = sampling
        adapters = [name for name in self._samplers if name != BASE_VERSION]
        for name in adapters[: max(0, len(adapters) - _MAX_SAMPLERS)]:
            del self._samplers[name]
            if model := self._models.pop(name, None):
                model.unload()


def load_proven(
    model: TinkerModel, saved: Mapping[str, Any], what: str, charge: TrainingCharge, *, optimizer: bool = True
) -> None:
    """Load a saved state and compare logprobs with those recorded. Raises PolicyError where it is lost.

    A server may report success for a state whose file is gone, and change nothing.
    """
    rows = [TrainingRow(tuple(row["prompt"]), tuple(row["completion"])) for row in saved["proof"]]
    expected = [np.array(row["logprobs"]) for row in saved["proof"]]
    message = f"{what} is lost: {saved['state']}"
    with charge(2 * token_count(rows), 0):
        before, after = _loaded(model, saved["state"], rows, message, optimizer)
    if largest_gap(after, expected) > EXACT_NATS and _distance(after, before) < _distance(after, expected):
        raise PolicyError(f"{message} (the service took it and changed nothing)")


def _loaded(
    model: TinkerModel, path: str, rows: Sequence[TrainingRow], message: str, optimizer: bool
) -> tuple[RowNumbers, RowNumbers]:
    """Load a state; return the logprobs before and after."""
    before = model.forward(rows)
    try:
        model.load_state(path, optimizer=optimizer)
    except CallError as failed:
        if failed.status in (404, 410):
            raise PolicyError(f"{message} ({failed.message})") from None
        raise
    return before, model.forward(rows)


def token_count(rows: Sequence[TrainingRow]) -> int:
    """Return the tokens of prompts and completions."""
    return sum(len(row.prompt_ids) + len(row.completion_ids) for row in rows)


def largest_gap(one: RowNumbers, other: RowNumbers) -> float:
    """Return the largest difference, nats."""
    return max(float(np.abs(a - b).max(initial=0.0)) for a, b in zip(one, other, strict=True))


def _distance(one: RowNumbers, other: RowNumbers) -> float:
    """Return the root of the mean squared difference, nats."""
    return float(np.sqrt(np.mean((np.concatenate(list(one)) - np.concatenate(list(other))) ** 2)))


def _context_of(client: TinkerClient, base: str) -> int | None:
    try:
        bases = client.bases()
    except CallError as failed:
        raise PolicyError(f"policy=tinker: {failed.message}") from None
    if base not in bases:
        names = ", ".join(sorted(bases)[:8])
        raise PolicyError(f"target_agent.policy.base={base}: {client.address} trains {names or 'nothing'}")
    return bases[base]


def _vocabulary(tokenizer: Any) -> bytes:
    return json.dumps(sorted(tokenizer.get_vocab().items())).encode()
