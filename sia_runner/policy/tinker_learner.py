"""The learner at a Tinker service: gradients by weights of tokens, steps, checkpoints, and the exported adapter."""

import io
import json
import shutil
import tarfile
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from sia_runner.config.training import TINKER_ALPHA, LoraSettings
from sia_runner.policy.tinker_client import ModelSettings, TinkerModel, sdk_version, unique_name
from sia_runner.policy.tinker_sampler import (
    EXACT_NATS,
    ServedBase,
    TinkerSampler,
    largest_gap,
    load_proven,
    token_count,
)
from sia_runner.records import Json
from sia_runner.wire.adapter_files import CONFIG_FILE, ORIGIN_FILE, WEIGHTS_FILE
from sia_runner.wire.failures import CallError
from sia_runner.wire.grants import ProviderDown
from sia_runner.wire.learning import (
    ForwardPass,
    LearnerAbilities,
    LowerLoss,
    RowNumbers,
    StepSettings,
    TokenWeights,
    TrainingRow,
)
from sia_runner.wire.policy import PolicyError

_ATTENTION = frozenset(("q_proj", "k_proj", "v_proj", "o_proj"))
_MLP = frozenset(("gate_proj", "up_proj", "down_proj"))
_HEAD = "lm_head"
_PROOF_ROWS, _PROOF_TOKENS = 4, 2048
_PROBE_RATE = 1e-3  # learning rate of the steps that measure the scale
_PROBE_SHARE = 0.05  # of how far the probe's step moves the logprobs: results of the right scale differ by less


class TinkerLearner:
    """The Learner of a service: a model there, whose gradients are sent when the step is taken.

    Rows wait for the step because a service that averages divides by their number. Logprobs are at temperature 1.
    """

    abilities = LearnerAbilities(critic=False, entropy=False, temperature=False, processes=False, shares_base=True)

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
        with as_provider_failure():
            if base:
                return ForwardPass(range(len(rows)), self._sampler.score(rows, None))
            with self._served.charge(token_count(rows), 0):
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
        count = self._served.client.padded_count(len(rows))
        advantages = [-weight * self._scale(row, count) for row, _, weight in waiting]
        with as_provider_failure(), self._served.charge(0, token_count(rows)):
            model.backward(rows, [logprobs for _, logprobs, _ in waiting], advantages)
            norm = model.step(settings)
        self._failed = ""
        return norm

    def publish(self) -> str:
        """Have the sampler answer with the weights of now, and return their version."""
        with as_provider_failure():
            return self._sampler.publish(self._checked().publish())

    def save(self, tag: str) -> Json:
        """Save adapter and optimizer at the service, with logprobs that prove a later `load`."""
        with as_provider_failure():
            path = self._checked().save_state(unique_name(tag))
            place = {"state": path, "model_id": self._model.model_id}
            return {**place, **self._identity(), **self._proof(self._proof_rows)}

    def load(self, state: Json) -> None:
        """Restore what `save` saved. Raises PolicyError if it is lost or belongs to another base or service."""
        self._sampler.begin_step()  # until the next publication
        for name, own in self._identity().items():
            if state.get(name) != own and name not in _VERSIONS:
                raise PolicyError(f"the checkpoint is of {name} {state.get(name)}, not of {own}")
        with as_provider_failure():
            what = "a checkpoint (delete the update's training/ to begin it again)"
            load_proven(self._model, state, what, self._served.charge)
        self._waiting, self._failed = [], ""

    def forget(self, state: Json) -> None:
        """Delete what `save` saved, if it is at this service. Raises CallError."""
        if state.get("service") == self._served.place:
            self._served.client.delete(str(state["state"]))

    def load_weights(self, service: Json) -> None:
        """Start from an adapter of this service. Raises PolicyError if it is lost, or has another shape."""
        own, its = _settings_json(self._settings), service["settings"]
        for name in ("rank", "attention", "mlp", "unembedding"):
            if its[name] != own[name]:
                shape = f"has {name} {its[name]}, and trainer.lora asks for {own[name]}"
                raise PolicyError(f"the parent's adapter {shape}; a service cannot change an adapter's shape")
        load_proven(self._model, service, "the parent's adapter", self._served.charge, optimizer=False)

    def export(self, folder: Path, origin: Mapping[str, Any]) -> None:
        """Write the adapter as a folder of PEFT with its origin, complete or not at all."""
        model = self._checked()
        with as_provider_failure():
            state, sampler = model.save_state(unique_name("final")), model.save_for_sampler(unique_name("final"))
            archive = self._served.client.download(sampler)
            proof = self._proof([self._served.neutral_row()])
        service = {"state": state, "sampler": sampler, **self._identity(), **proof}
        service["address"] = self._served.client.url
        service |= {"alpha": TINKER_ALPHA, "reduction": self._reduction, "settings": _settings_json(self._settings)}
        service |= {"experts": "share one of the two factors, or have a smaller rank, as the service decides"}
        write_archive(archive, folder, {**origin, "service": service}, self._settings)

    def _scale(self, row: TrainingRow, count: int) -> float:
        """Return the factor that undoes the service's division; see `measure_reduction`."""
        return (len(row.prompt_ids) + len(row.completion_ids) - 1) * count if self._reduction == "mean" else 1.0

    def _identity(self) -> Json:
        return {"service": self._served.place, "base": self._served.base_id, "sdk": sdk_version()}

    def _proof(self, rows: Sequence[TrainingRow]) -> Json:
        with self._served.charge(token_count(rows), 0):
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
    targets = {*_ATTENTION, *_MLP} if lora.targets == "all-linear" else set(lora.targets)
    if unknown := sorted(targets - _ATTENTION - _MLP):
        raise PolicyError(f"trainer.lora.targets={unknown[0]}: a Tinker service trains attention and MLP only")
    for names in (_ATTENTION, _MLP):
        if targets & names and (missing := sorted(names - targets)):
            together = ", ".join(sorted(names))
            raise PolicyError(f"trainer.lora.targets lacks {missing[0]}: a Tinker service trains {together} together")
    return ModelSettings(base, lora.rank, seed, bool(targets & _ATTENTION), bool(targets & _MLP), _HEAD in lora.save)


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
        gaps[scale] = largest_gap(short, stepped(scale, long=True))
        moved = max(moved, largest_gap(short, before))
    best, other = sorted(gaps, key=gaps.__getitem__)
    if moved < 10 * EXACT_NATS or gaps[best] > _PROBE_SHARE * moved or gaps[other] < 2 * gaps[best]:
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
        setting, present = getattr(settings, name), bool(names & set(modules)) or (name == "mlp" and bool(other))
        if setting != present:
            raise PolicyError(f"trainer.lora asks for {name}={setting}, but the service trained {', '.join(modules)}")


@contextmanager
def as_provider_failure() -> Iterator[None]:
    """Have a failure that is not the configuration's stop the run, which can be resumed; another is refused."""
    try:
        yield
    except CallError as failed:
        if failed.kind == "bad_request" and failed.status not in (404, 409):
            raise PolicyError(failed.message) from None
        raise ProviderDown(failed.message) from None


def _settings_json(settings: ModelSettings) -> Json:
    return {name: getattr(settings, name) for name in settings.__slots__}


def _short_rows(rows: Sequence[TrainingRow]) -> list[TrainingRow]:
    """Return the shortest rows, few enough to be compared at every checkpoint."""
    short: list[TrainingRow] = []
    for row in sorted(rows, key=lambda row: len(row.prompt_ids) + len(row.completion_ids))[:_PROOF_ROWS]:
        if token_count([*short, row]) <= _PROOF_TOKENS:
            short.append(row)
    return short
