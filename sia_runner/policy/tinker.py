"""The policy `backend=tinker`: a service that speaks the Tinker protocol answers, and holds and trains the weights.

Nothing of the base but its tokenizer and its configuration is read here.
"""

import hashlib
import io
import json
import re
import shutil
import tarfile
import tempfile
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np

from sia_runner.config.training import TINKER_ALPHA, LoraSettings, PolicyConfig
from sia_runner.policy.adapters import BASE_VERSION, adapter_version, check_adapter_base
from sia_runner.policy.base_model import ChatTokenizer, base_folder, load_tokenizer, text_limits
from sia_runner.policy.remote import RemotePolicy
from sia_runner.policy.tinker_client import (
    ModelSettings,
    TinkerClient,
    TinkerModel,
    TinkerSampling,
    sdk_version,
    unique_name,
)
from sia_runner.records import Json, as_object
from sia_runner.wire.adapter_files import CONFIG_FILE, ORIGIN_FILE, WEIGHTS_FILE
from sia_runner.wire.failures import CallError
from sia_runner.wire.grants import ProviderDown
from sia_runner.wire.learning import (
    ForwardPass,
    LearnerAbilities,
    LowerLoss,
    RowNumbers,
    Sample,
    SampleSettings,
    StepSettings,
    TokenWeights,
    TrainingRow,
)
from sia_runner.wire.policy import (
    LiveWeights,
    PolicyError,
    TrainingCharge,
    WeightsSource,
    check_tinker_packages,
)
from sia_runner.wire.providers import is_private

_ATTENTION = frozenset(("q_proj", "k_proj", "v_proj", "o_proj"))
_MLP = frozenset(("gate_proj", "up_proj", "down_proj"))
_HEAD = "lm_head"
_MAX_SAMPLERS = 2  # adapters served at the same time: a server may hold three models, of which one is being trained
_MODEL_FILE = "tinker_model.json"  # the model that holds a place at the service, for whoever resumes after a kill
_EXACT_NATS = 1e-4  # nats: two results of the same weights may differ by that much
_PROOF_ROWS, _PROOF_TOKENS = 4, 2048
_PROBE_RATE = 1e-3  # learning rate of the steps that measure the scale
_PROBE_SHARE = 0.05  # of how far the probe's step moves the logprobs: results of the right scale differ by less
_NOT_LOADED = re.compile(r"not loaded", re.I)


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
        """Return a row of no task: what is recorded with an adapter must tell nothing of the questions."""
        ids = self.chat.prompt_ids([{"role": "user", "content": "1"}])
        words = self.tokenizer(_NEUTRAL_TEXT, add_special_tokens=False)["input_ids"]
        return TrainingRow(tuple(ids), tuple(words))

    def probe_rows(self) -> tuple[TrainingRow, TrainingRow]:
        """Return two rows for `measure_reduction`."""
        row = self.neutral_row()
        half = len(row.completion_ids) // 2
        one, other = row.completion_ids[:half], row.completion_ids[half:]
        return TrainingRow(row.prompt_ids, one), TrainingRow(row.prompt_ids, other)


class TinkerPolicy(RemotePolicy):
    """A TrainablePolicy at a service."""

    def __init__(self, spec: PolicyConfig, client: TinkerClient) -> None:
        """Connect, and check that the service trains the base. Raises PolicyError."""
        self.client, self.served = client, ServedBase(spec, client)
        self._tinker_sampler = TinkerSampler(self.served)
        super().__init__(spec, self.served.tokenizer, self._tinker_sampler)
        self._chat = self.served.chat
        self.reduction = spec.tinker.reduction

    @property
    def charge(self) -> TrainingCharge:
        """What reserves the tokens of training calls in the ledger."""
        return self.served.charge

    @charge.setter
    def charge(self, charge: TrainingCharge) -> None:
        self.served.charge = charge

    @contextmanager
    def learner(
        self,
        lora: LoraSettings,
        start: Path | None,
        seed: int,
        *,
        critic: bool = False,
        work: Path,
        temperature: float = 1.0,
        max_length: int | None = None,
    ) -> Iterator["TinkerLearner"]:
        """Yield a learner with a model of its own at the service, whose id is in `work` until it is freed.

        What it cannot do is in its abilities. Raises PolicyError where the settings cannot be trained there, and
        ProviderDown where the service fails.
        """
        settings, served = model_settings(self.base_id, lora, seed), self.served
        origin = served.service_of(start) if start is not None else {}
        with _as_provider_failure():
            _free_model_of_killed_run(self.client, work)
            if self.reduction == "measure":
                with _placed_model(self.client, settings, work) as probe:  # some servers hold models of one shape only
                    self.reduction = measure_reduction(probe, served.probe_rows())
            with _placed_model(self.client, settings, work) as model:
                learner = TinkerLearner(served, self._tinker_sampler, model, settings, self.reduction)
                if origin:
                    learner.load_weights(origin)
                try:
                    yield learner
                finally:
                    self._tinker_sampler.end_training()

    def prove(self, seed: int) -> str:
        """Prove on a model of rank 1, which is deleted, that key, package and service fit; return what was seen.

        It is created, trained for some steps, published and sampled from. Raises PolicyError and ProviderDown.
        """
        row = self.served.neutral_row()
        with _as_provider_failure():
            model = self.client.create(ModelSettings(self.base_id, 1, seed))
            try:
                self.reduction = measure_reduction(model, self.served.probe_rows())
                sampling, trained = model.publish(), model.forward([row])
                gap = _gap([sampling.score(row)], trained)
                settings = SampleSettings(4, seed=seed)
                ((ids, _, _),) = sampling.sample(row.prompt_ids, 1, settings, self.served.end_ids)
            finally:
                model.unload()
        return (
            f"{self.client.address} trains {self.base_id} (tinker {sdk_version()}): a model of rank 1 was created, "
            f"trained, sampled from ({len(ids)} tokens) and deleted; sampler and learner differ by {gap:.1g} nats; "
            f"losses are reduced by a {self.reduction}"
        )


_NEUTRAL_TEXT = (
    "The sum of one and two is three, water boils at a hundred degrees, and most trees lose their leaves in autumn."
)


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
        """Refuse live weights from now on: they are about to change."""
        with self._lock:
            self._live, self._training = None, True

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
            samples.append(Sample(ids[:end], logprobs[:end], "stop" if stopped else "length", version))
        return samples

    def score(self, rows: Sequence[TrainingRow], weights: WeightsSource) -> RowNumbers:
        """Return the logprobs that the served weights give to the rows' completion tokens. Raises CallError."""
        workers = ThreadPoolExecutor(self._served.concurrency)
        with self._served.charge(_tokens(rows), 0), workers as pool:
            return list(pool.map(lambda row: self._ask(weights, lambda to: to.score(row))[1], rows))

    def close(self) -> None:
        """Free the models that were loaded to answer."""
        with self._lock:
            for model in self._models.values():
                model.unload()
            self._models.clear()
            self._samplers.clear()

    def _ask(self, weights: WeightsSource, ask: Callable[[TinkerSampling], Any]) -> tuple[str, Any]:
        with self._slots:
            version, adapter, sampling = self._sampling(weights)
            try:
                return version, ask(sampling)
            except CallError as failed:
                if adapter is None or not _NOT_LOADED.search(failed.message):
                    raise
            with self._lock:  # the server samples from live models only: make one of the saved state
                if self._samplers.get(version) is sampling:
                    self._load(version, adapter)
                sampling = self._samplers[version]
            return version, ask(sampling)

    def _sampling(self, weights: WeightsSource) -> tuple[str, Path | None, TinkerSampling]:
        with self._lock:
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
        _load_proven(model, service, f"adapter {adapter}")
        self._keep(version, model.publish())

    def _keep(self, version: str, sampling: TinkerSampling) -> None:
        self._samplers[version] = sampling
        adapters = [name for name in self._samplers if name != BASE_VERSION]
        for name in adapters[: max(0, len(adapters) - _MAX_SAMPLERS)]:
            del self._samplers[name]
            if model := self._models.pop(name, None):
                model.unload()


class TinkerLearner:
    """The Learner of a service: a model there, whose gradients are sent when the step is taken.

    Rows wait for the step because a service that averages divides by their number. Logprobs are at temperature 1.
    """

    abilities = LearnerAbilities(critic=False, entropy=False, temperature=False, processes=False)

    def __init__(
        self, served: ServedBase, sampler: TinkerSampler, model: TinkerModel, settings: ModelSettings, reduction: str
    ) -> None:
        self._served, self._sampler = served, sampler
        self._model, self._settings, self._reduction = model, settings, reduction
        self._waiting: list[tuple[TrainingRow, np.ndarray, np.ndarray]] = []  # row, logprobs, weights
        self._proof_rows: list[TrainingRow] = [served.neutral_row()]
        self._failed = ""  # why the model there is in an unknown state; empty: it is not

    def forward(self, rows: Sequence[TrainingRow], *, base: bool = False) -> ForwardPass:
        """Return the logprobs of all rows without a gradient; with `base` those of the base without the adapter."""
        with _as_provider_failure():
            if base:
                return ForwardPass(range(len(rows)), self._sampler.score(rows, None))
            with self._served.charge(_tokens(rows), 0):
                return ForwardPass(range(len(rows)), self._checked().forward(rows))

    def backward(
        self, rows: Sequence[TrainingRow], lower: LowerLoss, *, together: Sequence[Sequence[int]] = ()
    ) -> list[ForwardPass]:
        """Add the gradient of sum(weight * logprob). All rows come in one pass, so any group is together."""
        result = self.forward(rows)
        weights: TokenWeights = lower(result)
        for row, logprobs, weight in zip(rows, result.logprobs, weights.logprobs, strict=True):
            if np.any(weight):  # other rows would cost money and change nothing
                self._waiting.append((row, logprobs, np.asarray(weight, np.float64)))
        self._proof_rows = _short_rows(rows) or self._proof_rows
        return [result]

    def step(self, settings: StepSettings) -> float | None:
        """Take one optimizer step; without any gradient none is taken. The norm is reported by some services."""
        waiting, self._waiting = self._waiting, []
        if not waiting:
            return 0.0
        model, rows = self._checked(), [row for row, _, _ in waiting]
        self._sampler.begin_step()
        self._failed = "a step was broken off"  # its gradient may still be there
        sent = self._served.client.padded_count(len(rows))
        advantages = [-weight * self._scale(row, sent) for row, _, weight in waiting]
        with _as_provider_failure(), self._served.charge(0, _tokens(rows)):
            model.backward(rows, [logprobs for _, logprobs, _ in waiting], advantages)
            norm = model.step(settings)
        self._failed = ""
        return norm

    def publish(self) -> str:
        """Have the sampler answer with the weights of now, and return their version."""
        with _as_provider_failure():
            return self._sampler.publish(self._checked().publish())

    def save(self, tag: str) -> Json:
        """Save adapter and optimizer at the service, with logprobs that prove a later `load`."""
        with _as_provider_failure():
            path = self._checked().save_state(unique_name(tag))
            place = {"state": path, "model_id": self._model.model_id}
            return {**place, **self._identity(), **self._proof(self._proof_rows)}

    def load(self, state: Json) -> None:
        """Restore what `save` saved. Raises PolicyError if it is lost or belongs to another base or service."""
        self._sampler.begin_step()  # until the next publication
        for name, own in self._identity().items():
            if state.get(name) != own and name not in _VERSIONS:
                raise PolicyError(f"the checkpoint is of {name} {state.get(name)}, not of {own}")
        with _as_provider_failure():
            _load_proven(self._model, state, "a checkpoint (delete the update's training/ to begin it again)")
        self._waiting, self._failed = [], ""

    def load_weights(self, service: Json) -> None:
        """Start from an adapter of this service. Raises PolicyError if it is lost, or has another shape."""
        own, its = _settings_json(self._settings), service["settings"]
        for name in ("rank", "attention", "mlp", "unembedding"):
            if its[name] != own[name]:
                shape = f"has {name} {its[name]}, and trainer.lora asks for {own[name]}"
                raise PolicyError(f"the parent's adapter {shape}; a service cannot change an adapter's shape")
        _load_proven(self._model, service, "the parent's adapter", optimizer=False)

    def export(self, folder: Path, origin: Mapping[str, Any]) -> None:
        """Write the adapter as a folder of PEFT with its origin, complete or not at all."""
        model = self._checked()
        with _as_provider_failure():
            state, sampler = model.save_state(unique_name("final")), model.save_for_sampler(unique_name("final"))
            archive = self._served.client.download(sampler)
            proof = self._proof([self._served.neutral_row()])
        service = {"state": state, "sampler": sampler, **self._identity(), **proof}
        service["address"] = self._served.client.url
        service |= {"alpha": TINKER_ALPHA, "reduction": self._reduction, "settings": _settings_json(self._settings)}
        service |= {"experts": "share one of the two factors, or have a smaller rank, as the service decides"}
        write_archive(archive, folder, {**origin, "service": service}, self._settings)

    def _scale(self, row: TrainingRow, sent: int) -> float:
        """Return the factor that undoes the service's division; see `measure_reduction`."""
        return (len(row.prompt_ids) + len(row.completion_ids) - 1) * sent if self._reduction == "mean" else 1.0

    def _identity(self) -> Json:
        return {"service": self._served.place, "base": self._served.base_id, "sdk": sdk_version()}

    def _proof(self, rows: Sequence[TrainingRow]) -> Json:
        with self._served.charge(_tokens(rows), 0):
            logprobs = self._checked().forward(rows)
        return {
            "proof": [
                {"prompt": row.prompt_ids, "completion": row.completion_ids, "logprobs": numbers.tolist()}
                for row, numbers in zip(rows, logprobs, strict=True)
            ]
        }

    def _checked(self) -> TinkerModel:
        if self._failed:
            raise ProviderDown(f"{self._served.client.address}: {self._failed}; resume from the last checkpoint")
        return self._model


_VERSIONS = ("sdk",)  # may change between save and load


def model_settings(base: str, lora: LoraSettings, seed: int) -> ModelSettings:
    """Return what `trainer.lora` asks a service to train. Raises PolicyError for what the protocol cannot say."""
    named = {*_ATTENTION, *_MLP} if lora.targets == "all-linear" else set(lora.targets)
    if unknown := sorted(named - _ATTENTION - _MLP):
        raise PolicyError(f"trainer.lora.targets={unknown[0]}: a Tinker service trains attention and MLP only")
    for names in (_ATTENTION, _MLP):
        if named & names and (missing := sorted(names - named)):
            together = ", ".join(sorted(names))
            raise PolicyError(f"trainer.lora.targets lacks {missing[0]}: a Tinker service trains {together} together")
    return ModelSettings(base, lora.rank, seed, bool(named & _ATTENTION), bool(named & _MLP), _HEAD in lora.save)


def measure_reduction(model: TinkerModel, rows: tuple[TrainingRow, TrainingRow]) -> str:
    """Return how a service reduces a loss over tokens: `sum`, or `mean` over a row's tokens and over rows.

    Documents do not say it and servers differ. More tokens with advantage 0 behind a row leave the true gradient as it
    is, so the steps with and without them agree under the right factor only. Raises PolicyError where neither fits.
    """
    first, second = rows
    longer = TrainingRow(first.prompt_ids, first.completion_ids + second.completion_ids)
    start = model.save_state(unique_name("probe"))
    before = model.forward(rows)
    rng = np.random.default_rng(0)
    weights = [rng.normal(size=len(numbers)) for numbers in before]

    def stepped(scale: str, *, long: bool) -> RowNumbers:
        model.load_state(start)
        pair = [longer if long else first, second]
        pad = np.zeros(len(longer.completion_ids) - len(first.completion_ids) if long else 0)
        logprobs = [np.concatenate([before[0], pad]), before[1]]
        factors = [(len(row.prompt_ids) + len(row.completion_ids) - 1) * 2 if scale == "mean" else 1 for row in pair]
        shifted = [np.concatenate([weights[0], pad]), weights[1]]
        model.backward(pair, logprobs, [-values * factor for values, factor in zip(shifted, factors, strict=True)])
        model.step(StepSettings(_PROBE_RATE, max_norm=0.0))
        return model.forward(rows)

    gaps: dict[str, float] = {}
    moved = 0.0
    for scale in ("sum", "mean"):
        short = stepped(scale, long=False)
        gaps[scale] = _gap(short, stepped(scale, long=True))
        moved = max(moved, _gap(short, before))
    best, other = sorted(gaps, key=gaps.__getitem__)
    if moved < 10 * _EXACT_NATS or gaps[best] > _PROBE_SHARE * moved or gaps[other] < 2 * gaps[best]:
        figures = ", ".join(f"{name} {gap:.2g}" for name, gap in gaps.items())
        raise PolicyError(
            f"the service weighs tokens neither by a sum nor by a mean (differences in nats: {figures}; moved "
            f"{moved:.2g}), so gradients would be wrong; if you know which, set target_agent.policy.tinker.reduction"
        )
    return best


def write_archive(archive: bytes, folder: Path, origin: Mapping[str, Any], settings: ModelSettings) -> None:
    """Write a service's archive as a folder of PEFT, complete or not at all. Raises PolicyError.

    A configuration without target modules has PEFT adapt two of seven and drop the rest without a word.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    out = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        with tarfile.open(fileobj=io.BytesIO(archive)) as files:
            members = {Path(member.name).name: member for member in files.getmembers() if member.isfile()}
            contents = {
                name: stream.read()
                for name in (WEIGHTS_FILE, CONFIG_FILE)
                if name in members and (stream := files.extractfile(members[name]))
            }
        if len(contents) < 2:
            raise PolicyError(f"the service's archive has no {WEIGHTS_FILE} with {CONFIG_FILE}: {sorted(members)[:5]}")
        paths = {name.rpartition(".lora_")[0] for name in _tensor_names(contents[WEIGHTS_FILE])}
        modules = sorted({path.rpartition(".")[2] for path in paths} - {""})
        _check_modules(modules, settings)
        config = json.loads(contents[CONFIG_FILE])
        config |= {"target_modules": modules, "task_type": "CAUSAL_LM", "inference_mode": True}
        config |= {"base_model_name_or_path": origin["base_id"]}
        (out / WEIGHTS_FILE).write_bytes(contents[WEIGHTS_FILE])
        (out / CONFIG_FILE).write_text(json.dumps(config, indent=1), encoding="utf-8")
        (out / ORIGIN_FILE).write_text(json.dumps(origin, indent=1) + "\n", encoding="utf-8")
        out.chmod(0o755)  # mkdtemp's 0700 would hide it from a server of another user
        shutil.rmtree(folder, ignore_errors=True)
        out.rename(folder)
    except tarfile.TarError as error:
        raise PolicyError(f"the service's archive of the adapter cannot be read: {error}") from None
    finally:
        shutil.rmtree(out, ignore_errors=True)


def _tensor_names(weights: bytes) -> list[str]:
    """Return the names in a file of safetensors, by its header: numpy has no bfloat16."""
    length = int.from_bytes(weights[:8], "little")
    return [name for name in json.loads(weights[8 : 8 + length]) if name != "__metadata__"]


def _check_modules(modules: Sequence[str], settings: ModelSettings) -> None:
    """Refuse an adapter of other modules than were asked for: some servers ignore the request."""
    parts = {"attention": _ATTENTION, "mlp": _MLP, "unembedding": frozenset((_HEAD,))}
    other = set(modules) - frozenset().union(*parts.values())  # experts, by names of their own
    for name, names in parts.items():
        asked, trained = getattr(settings, name), bool(names & set(modules)) or (name == "mlp" and bool(other))
        if asked != trained:
            raise PolicyError(f"trainer.lora asks for {name}={asked}, but the service trained {', '.join(modules)}")


def _load_proven(model: TinkerModel, saved: Mapping[str, Any], what: str, *, optimizer: bool = True) -> None:
    """Load a saved state and compare logprobs with those recorded. Raises PolicyError where it is lost.

    A server may report success for a state whose file is gone, and change nothing.
    """
    rows = [TrainingRow(tuple(row["prompt"]), tuple(row["completion"])) for row in saved["proof"]]
    recorded = [np.array(row["logprobs"]) for row in saved["proof"]]
    lost = f"{what} is lost: {saved['state']}"
    before = model.forward(rows)
    try:
        model.load_state(saved["state"], optimizer=optimizer)
    except CallError as failed:
        if failed.status in (404, 410):
            raise PolicyError(f"{lost} ({failed.message})") from None
        raise
    after = model.forward(rows)
    if _gap(after, recorded) > _EXACT_NATS and _distance(after, before) < _distance(after, recorded):
        raise PolicyError(f"{lost} (the service took it and changed nothing)")


@contextmanager
def _placed_model(client: TinkerClient, settings: ModelSettings, work: Path) -> Iterator[TinkerModel]:
    """Yield a new model, and free its place; its id is on disk meanwhile, as a killed process frees nothing."""
    model = client.create(settings)
    work.mkdir(parents=True, exist_ok=True)
    note = work / _MODEL_FILE
    note.write_text(json.dumps({"model_id": model.model_id}), encoding="utf-8")
    try:
        yield model
    finally:
        model.unload()
        note.unlink(missing_ok=True)


@contextmanager
def _as_provider_failure() -> Iterator[None]:
    """Have a failure that is not the configuration's stop the run, which can be resumed; another is refused."""
    try:
        yield
    except CallError as failed:
        if failed.kind == "bad_request" and failed.status not in (404, 409):
            raise PolicyError(failed.message) from None
        raise ProviderDown(failed.message) from None


def _free_model_of_killed_run(client: TinkerClient, work: Path) -> None:
    try:
        model_id = json.loads((work / _MODEL_FILE).read_text(encoding="utf-8"))["model_id"]
    except (OSError, ValueError, KeyError):
        return
    client.unload(model_id)


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


def _settings_json(settings: ModelSettings) -> Json:
    return {name: getattr(settings, name) for name in settings.__slots__}


def _tokens(rows: Sequence[TrainingRow]) -> int:
    return sum(len(row.prompt_ids) + len(row.completion_ids) for row in rows)


def _short_rows(rows: Sequence[TrainingRow]) -> list[TrainingRow]:
    """Return the shortest rows, few enough to be compared at every checkpoint."""
    short: list[TrainingRow] = []
    for row in sorted(rows, key=lambda row: len(row.prompt_ids) + len(row.completion_ids))[:_PROOF_ROWS]:
        if _tokens([*short, row]) <= _PROOF_TOKENS:
            short.append(row)
    return short


def _gap(one: RowNumbers, other: RowNumbers) -> float:
    """Return the largest difference, nats."""
    return max(float(np.abs(a - b).max(initial=0.0)) for a, b in zip(one, other, strict=True))


def _distance(one: RowNumbers, other: RowNumbers) -> float:
    """Return the root of the mean squared difference, nats."""
    return float(np.sqrt(np.mean((np.concatenate(list(one)) - np.concatenate(list(other))) ** 2)))
