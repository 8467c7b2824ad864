"""The calls of the Tinker protocol, as far as a policy needs them; this module alone imports the package `tinker`.

The package waits and retries without a bound where a server is gone, so every call here has a timeout. All failures are
CallErrors of one line. Measured traps of the protocol are noted where they are handled.
"""

import json
import logging
import os
import threading
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, wait
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module, metadata
from typing import Any, TypeVar
from urllib.parse import urljoin

import numpy as np
from numpy.typing import NDArray

from sia_runner.text import one_line
from sia_runner.wire.failures import CallError, error_of_body, error_of_status
from sia_runner.wire.learning import RowNumbers, SampleSettings, StepSettings, TrainingRow
from sia_runner.wire.providers import address_of, build_opener, redact

LAST_JSON_VERSION = "tinker<0.25"  # 0.25 changed the wire format; self-hosted servers may still speak the older one
_KEY_PREFIX = "tml-"  # without it the package refuses a key, also for a server that asks for none
_LOCAL_KEY = "tml-local"
_REACH_SECONDS = 5.0  # of the first question whether anything listens
_WATCH_SECONDS = 10.0  # between looks whether a server that has not answered yet still listens
_CREATE_SECONDS = 60.0  # of the first answer of a model: a server of another protocol version never answers
_MAX_MESSAGE_CHARS = 300  # characters: a refusal may repeat the whole request
_PIECE_BYTES = 1 << 20  # bytes of an archive that are read at a time
_DETAIL_MARK = "'detail': "

_Result = TypeVar("_Result")


@dataclass(frozen=True, slots=True)
class ModelSettings:
    """The shape of the adapter that is trained on a base."""

    base: str
    rank: int
    seed: int
    attention: bool = True
    mlp: bool = True
    unembedding: bool = False


class TinkerClient:
    """A session at one service; its methods block, may be called from any thread, and raise CallError."""

    def __init__(self, base_url: str, key: str | None, seconds: float, row_multiple: int = 1) -> None:
        """Keep the settings; `seconds` bounds each call, whose rows are a multiple. The first call connects."""
        self.url = base_url.rstrip("/")
        self.address, self.seconds, self._row_multiple = address_of(self.url), seconds, row_multiple
        self._key = key or _LOCAL_KEY
        self._service: Any = None
        self._has_answered = False  # a training call: a server of another protocol version may answer what comes before
        self._lock = threading.Lock()

    def check(self, seconds: float) -> None:
        """Check that something speaks the protocol there; no key is needed for that."""
        self._fetch("its health", f"{self.url}/api/v1/healthz", None, seconds)

    def bases(self) -> dict[str, int | None]:
        """Return the names of the bases that the service trains, each with its context in tokens where it says one."""
        answer = self.call("its capabilities", lambda: self._connected().get_server_capabilities(), _CREATE_SECONDS)
        return {
            str(model.model_name): getattr(model, "max_context_length", None)
            for model in answer.supported_models
            if model.model_name
        }

    def create(self, settings: ModelSettings) -> "TinkerModel":
        """Create a model: a new adapter on a base, which holds a place at the service until `unload`."""
        service = self._connected()

        def ask() -> tuple[Any, str]:
            training = service.create_lora_training_client(
                base_model=settings.base,
                rank=settings.rank,
                seed=settings.seed,
                train_attn=settings.attention,
                train_mlp=settings.mlp,
                train_unembed=settings.unembedding,
            )
            return training, str(training.model_id)  # newer versions of the package return a future, which waits here

        with self._training_call():
            return TinkerModel(self, *self.call("creating a model", ask, max(self.seconds, _CREATE_SECONDS)))

    def sampler(self, path: str | None, base: str) -> "TinkerSampling":
        """Return what samples from saved weights, or from the base."""
        named = {"base_model": base} if path is None else {"model_path": path}
        service = self._connected()
        return TinkerSampling(self, self.call("a sampler", lambda: service.create_sampling_client(**named)))

    def check_saved(self, path: str) -> None:
        """Check that the service knows a saved state. That it can be read is only seen after loading."""
        rest = self._connected().create_rest_client()
        self.call("a saved state", lambda: rest.get_weights_info_by_tinker_path(path).result(self.seconds))

    def delete(self, path: str) -> None:
        """Delete a saved state. Raises CallError, also at a service that deletes none."""
        rest = self._connected().create_rest_client()
        ask = lambda: rest.delete_checkpoint_from_tinker_path(path).result(_REACH_SECONDS)  # noqa: E731
        self.call("deleting a checkpoint", ask, _REACH_SECONDS)

    def download(self, path: str) -> bytes:
        """Return the archive of weights that were saved for a sampler: a tar.gz with an adapter."""
        model_id, *_, name = path.removeprefix("tinker://").split("/")
        url = f"{self.url}/api/v1/training_runs/{model_id}/checkpoints/{name}/archive"
        if "/sampler_weights/" in path:  # the hosted service signs an address
            rest = self._connected().create_rest_client()
            signed = rest.get_checkpoint_archive_url_from_tinker_path(path)
            url = self.call("an archive", lambda: signed.result(self.seconds)).url
        return self._fetch("an archive", url, None, self.seconds)

    def padded_count(self, rows: int) -> int:
        """Return how many rows are sent for so many: some servers deal them evenly to their GPUs."""
        return -(-rows // self._row_multiple) * self._row_multiple

    def unload(self, model_id: str) -> bool:
        """Free the place of a model, also of one that another process left behind. Return False without an answer."""
        body = json.dumps({"model_id": model_id, "type": "unload_model"}).encode()
        try:
            self._fetch("unloading a model", f"{self.url}/api/v1/unload_model", body, _REACH_SECONDS)
        except CallError as failed:
            return failed.status is not None  # hosted services free it by themselves
        return True

    def call(self, what: str, ask: Callable[[], _Result], seconds: float | None = None) -> _Result:
        """Return what `ask` returns, or raise CallError; the package's own waiting has no bound."""
        seconds, answer = seconds or self.seconds, Future[_Result]()

        def work() -> None:
            try:
                answer.set_result(ask())
            except BaseException as error:  # noqa: BLE001 - handed over to who waits
                answer.set_exception(error)

        threading.Thread(target=work, name="tinker", daemon=True).start()
        self._wait_for(answer, what, seconds)
        try:
            return answer.result()
        except Exception as error:  # noqa: BLE001 - the package has no common base for its errors
            raise self._failure(error, what, seconds) from None

    def training_call(self, what: str, send: Callable[[], Any]) -> Any:
        """Return the result of what is sent."""
        with self._training_call():
            result = self.call(what, lambda: send().result(self.seconds))
        self._has_answered = True
        return result

    @contextmanager
    def _training_call(self) -> Iterator[None]:
        try:
            yield
        except CallError as failed:
            if (failed.kind == "timeout" or failed.status == 422) and not self._has_answered:
                failed.message += f"; if it speaks an older format than tinker {sdk_version()}: {_older_package()}"
            raise

    def _wait_for(self, answer: Future[Any], what: str, seconds: float) -> None:
        """Wait for an answer. Raises CallError once time is up, or nothing has listened twice in a row."""
        ends, misses = time.monotonic() + seconds + 1, 0  # the thread's own timeout comes first where it has one
        while wait([answer], min(_WATCH_SECONDS, max(0.0, ends - time.monotonic()))).not_done:
            if time.monotonic() >= ends:
                raise self._no_answer(what, seconds)
            try:
                self.check(_REACH_SECONDS)
                misses = 0
            except CallError as failed:
                misses += failed.kind == "unreachable"
                if misses > 1:
                    raise

    def _connected(self) -> Any:
        with self._lock:
            if self._service is None:
                self.check(_REACH_SECONDS)
                os.environ.setdefault("TINKER_TELEMETRY", "0")  # it would send stack traces
                logging.getLogger("tinker").setLevel(logging.CRITICAL)  # failures are reported by us
                key = self._key if self._key.startswith(_KEY_PREFIX) else f"{_KEY_PREFIX}{self._key}"
                self._service = self.call("a session", lambda: _sdk().ServiceClient(base_url=self.url, api_key=key))
            return self._service

    def _fetch(self, what: str, url: str, body: bytes | None, seconds: float, redirects: int = 3) -> bytes:
        headers = {"User-Agent": "sia-runner", "Content-Type": "application/json"}
        own = url.startswith(f"{self.url}/")  # not an address that the service signed, elsewhere
        if own:
            headers["X-API-Key"] = self._key
        request = urllib.request.Request(url, body, headers)  # noqa: S310 - the schema allows http(s) only
        try:
            with build_opener(url).open(request, timeout=seconds) as response:
                return b"".join(iter(lambda: response.read(_PIECE_BYTES), b""))
        except urllib.error.HTTPError as error:
            if body is None and redirects and 300 < error.code < 309 and (to := error.headers.get("Location")):
                return self._fetch(what, urljoin(url, to), None, seconds, redirects - 1)
            failed = error_of_body(error.code, dict(error.headers), error.read(1 << 16))
            raise self._named(failed, what) from None
        except TimeoutError:
            raise self._no_answer(what, seconds) from None
        except (OSError, ValueError) as error:
            reason = one_line(str(getattr(error, "reason", error)), _MAX_MESSAGE_CHARS)
            message = f"{self.address} cannot be reached ({reason})"
            raise CallError("unreachable", message) from None

    def _no_answer(self, what: str, seconds: float) -> CallError:
        return CallError("timeout", f"{self.address} gave no answer about {what} within {seconds:g} s")

    def _failure(self, error: Exception, what: str, seconds: float) -> CallError:
        """Return the error in one line. The package's exceptions have a status, a text with one, or neither."""
        if isinstance(error, CallError):
            return error
        if isinstance(error, TimeoutError):  # without a text of its own
            return self._no_answer(what, seconds)
        text, status = str(error), getattr(error, "status_code", None)
        if status is None and "(status " in text:  # of a request whose result is an error
            status = int(text.partition("(status ")[2].partition(")")[0])
        detail = text.partition(_DETAIL_MARK)[2]
        words = detail[1:].partition(detail[0])[0] if detail[:1] in ("'", '"') else text
        words = one_line(redact(words, [self._key]), _MAX_MESSAGE_CHARS)
        if status is not None:
            return self._named(error_of_status(status, {}, {"message": words}), what)
        if type(error).__name__ == "APIConnectionError":
            return CallError("unreachable", f"{self.address} cannot be reached ({words})")
        if "api_key" in words:
            return CallError("auth", f"{self.address}: {words}", final=True)
        kind = type(error).__name__
        return CallError("unreachable", f"{self.address}, asked about {what}: {kind}: {words}")

    def _named(self, failed: CallError, what: str) -> CallError:
        if failed.status == 404 and what == "its health":
            failed.message = "nothing there speaks the Tinker protocol (status 404)"
        failed.message = f"{self.address}, asked about {what}: {redact(failed.message, [self._key])}"
        if "Maximum number of LoRA adapters" in failed.message:  # sent with status 400
            failed.kind = "rate_limited"
            failed.message += "; a model that a killed run left behind is freed after some minutes"
        return failed


class TinkerModel:
    """A model under training; after a timeout its calls wait behind the one without an answer: create another."""

    def __init__(self, client: TinkerClient, training: Any, model_id: str) -> None:
        self._client, self._training, self.model_id = client, training, model_id

    def forward(self, rows: Sequence[TrainingRow]) -> RowNumbers:
        """Return the logprobs of the weights now."""
        data = self._padded([_datum(row, {"weights": np.zeros(len(row.completion_ids))}) for row in rows], rows)
        return _completions(self._wait("a forward pass", lambda: self._training.forward(data, "cross_entropy")), rows)

    def backward(self, rows: Sequence[TrainingRow], logprobs: RowNumbers, advantages: RowNumbers) -> RowNumbers:
        """Add the gradient of -sum(advantage * exp(now - logprob)); return the logprobs now.

        It is the only loss whose per-token factors every server takes with either sign: with `cross_entropy` a server
        that divides by the sum of the weights is wrong by any factor.
        """
        columns = zip(rows, logprobs, advantages, strict=True)
        data = [_datum(row, {"logprobs": lp, "advantages": advantage}) for row, lp, advantage in columns]
        data = self._padded(data, rows)
        ask = lambda: self._training.forward_backward(data, "importance_sampling")  # noqa: E731
        return _completions(self._wait("a backward pass", ask), rows)

    def step(self, settings: StepSettings) -> float | None:
        """Take a step of Adam; return the gradient's norm where the server reports it."""
        types = _sdk().types
        adam = types.AdamParams(
            learning_rate=settings.learning_rate,
            beta1=settings.betas[0],
            beta2=settings.betas[1],
            eps=settings.epsilon,
            weight_decay=0.0,
            grad_clip_norm=settings.max_norm,
        )
        answer = self._wait("an optimizer step", lambda: self._training.optim_step(adam))
        norms = [value for name, value in (answer.metrics or {}).items() if "grad_norm" in name]
        return float(norms[0]) if norms else None

    def save_state(self, name: str) -> str:
        """Save adapter and optimizer under a name never used before: a second use blocks the model for minutes."""
        return str(self._wait("saving the state", lambda: self._training.save_state(name)).path)

    def load_state(self, path: str, *, optimizer: bool = True) -> None:
        """Load adapter and optimizer; SkyRL loads both in either case.

        A server may take a state whose file is gone, and change nothing: compare logprobs afterwards.
        """
        load = self._training.load_state_with_optimizer if optimizer else self._training.load_state
        self._wait("loading a state", lambda: load(path))

    def save_for_sampler(self, name: str) -> str:
        """Save the adapter for samplers and downloads."""
        return str(self._wait("saving the weights", lambda: self._training.save_weights_for_sampler(name)).path)

    def publish(self) -> "TinkerSampling":
        """Return what samples from the weights now."""
        ask = self._training.save_weights_and_get_sampling_client
        return TinkerSampling(self._client, self._client.call("publishing the weights", ask))

    def unload(self) -> bool:
        """Free the model's place at the service. Return False without an answer."""
        return self._client.unload(self.model_id)

    def _padded(self, data: list[Any], rows: Sequence[TrainingRow]) -> list[Any]:
        """Return the data with copies of the first row behind them that have no effect."""
        nothing = np.zeros(len(rows[0].completion_ids))
        names = [name for name in ("weights", "logprobs", "advantages") if name in data[0].loss_fn_inputs]
        copy = _datum(rows[0], dict.fromkeys(names, nothing))
        return data + [copy] * (self._client.padded_count(len(data)) - len(data))

    def _wait(self, what: str, send: Callable[[], Any]) -> Any:
        return self._client.training_call(what, send)


class TinkerSampling:
    """The sampler of one version of the weights.

    A server may answer an older one with newer weights, or load the older weights into the model under training when it
    is asked: never ask one after the model's next step.
    """

    def __init__(self, client: TinkerClient, sampling: Any) -> None:
        self._client, self._sampling = client, sampling

    def sample(
        self, prompt_ids: Sequence[int], count: int, settings: SampleSettings, end_ids: Sequence[int]
    ) -> list[tuple[tuple[int, ...], tuple[float, ...], str]]:
        """Return token ids, their logprobs at temperature 1, and the finish reason, `count` times.

        `end_ids`: nothing else ends a completion. A request has ids or strings to stop at, so `settings.stop` is not
        sent: the caller looks for its strings.
        """
        types = _sdk().types
        limits = {"max_tokens": settings.max_tokens, "temperature": settings.temperature, "top_p": settings.top_p}
        parameters = types.SamplingParams(**limits, seed=settings.seed, stop=list(end_ids))
        prompt, seconds = types.ModelInput.from_ints(list(prompt_ids)), self._client.seconds

        def ask() -> Any:
            return self._sampling.sample(prompt=prompt, num_samples=count, sampling_params=parameters).result(seconds)

        answer = self._client.call("a sample", ask)
        return [
            (tuple(sequence.tokens), tuple(sequence.logprobs or ()), str(sequence.stop_reason))
            for sequence in answer.sequences
        ]

    def score(self, row: TrainingRow) -> NDArray[np.float64]:
        """Return the logprobs of a row's completion."""
        types = _sdk().types
        tokens, seconds = types.ModelInput.from_ints([*row.prompt_ids, *row.completion_ids]), self._client.seconds
        answer = self._client.call("logprobs", lambda: self._sampling.compute_logprobs(tokens).result(seconds))
        if answer is None:
            why = "gives no logprobs of prompts, which the KL to the base and the proof of the adapter need"
            raise CallError("bad_request", f"{self._client.address} {why}")
        # Some servers begin with None for the first token and some leave it out: count from the end.
        return np.array(answer[len(answer) - len(row.completion_ids) :], dtype=np.float64)


def unique_name(tag: str) -> str:
    """Return a name for something saved that no attempt before has used."""
    return f"{tag}-{uuid.uuid4().hex[:12]}"


def _sdk() -> Any:
    return import_module("tinker")


def _older_package() -> str:
    return f"pip install '{LAST_JSON_VERSION}'"


def sdk_version() -> str:
    """Return the version of the package `tinker`."""
    return metadata.version("tinker")


def _datum(row: TrainingRow, columns: dict[str, Any]) -> Any:
    """Return a row as the protocol has it: inputs and targets shifted by one, numbers 0 at the prompt's tokens."""
    types = _sdk().types
    tokens, before = [*row.prompt_ids, *row.completion_ids], np.zeros(len(row.prompt_ids) - 1, np.float32)
    inputs = {"target_tokens": types.TensorData.from_numpy(np.array(tokens[1:], np.int64))}
    for name, values in columns.items():
        numbers = np.concatenate([before, np.asarray(values, np.float32)])
        inputs[name] = types.TensorData.from_numpy(numbers)
    return types.Datum(model_input=types.ModelInput.from_ints(tokens[:-1]), loss_fn_inputs=inputs)


def _completions(answer: Any, rows: Sequence[TrainingRow]) -> RowNumbers:
    if len(answer.loss_fn_outputs) < len(rows):
        raise CallError("malformed", f"logprobs of {len(answer.loss_fn_outputs)} rows came for {len(rows)}")
    outputs = [np.asarray(output["logprobs"].to_numpy(), np.float64) for output in answer.loss_fn_outputs]
    ends = [len(row.prompt_ids) + len(row.completion_ids) - 1 for row in rows]  # the rows behind are padding
    return [numbers[len(row.prompt_ids) - 1 : end] for row, numbers, end in zip(rows, outputs, ends, strict=False)]
