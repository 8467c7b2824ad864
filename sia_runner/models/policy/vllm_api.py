"""vLLM's HTTP endpoints, as far as a policy needs them. Standard library only: preflight asks before anything heavy.

The server is started with
    VLLM_ALLOW_RUNTIME_LORA_UPDATING=1
    vllm serve BASE --enable-lora --max-lora-rank 32 --logprobs-mode processed_logprobs
"""

import http.client
import json
import os
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from sia_runner.models.failures import Failed, refused
from sia_runner.models.keys import redact
from sia_runner.models.line import BIGGEST_ANSWER
from sia_runner.models.reachable import NoRedirect
from sia_runner.models.wire import dumps, loads

KEY = "VLLM_API_KEY"  # the server's own variable for --api-key
_LOAD_SECONDS = 300.0  # adapters of hundreds of megabytes over a network file system


@dataclass(frozen=True, slots=True)
class Completion:
    ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    finish_reason: str


class Server:
    """One vLLM server. Its methods block, and raise Failed."""

    def __init__(self, base_url: str) -> None:
        """`base_url` up to and including /v1."""
        self._url = base_url.rstrip("/")
        self._key = os.environ.get(KEY, "").strip() or None
        self._opener = urllib.request.build_opener(NoRedirect)

    @property
    def address(self) -> str:
        """Scheme, host and port, without a user's name or password."""
        parts = urlsplit(self._url)
        return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"

    def context(self, model: str, seconds: float) -> int:
        """Tokens of prompt and completion together."""
        cards = loads(self._ask("/models", None, seconds)).get("data", [])
        of_model = [card for card in cards if card.get("id") == model]
        if not of_model or not isinstance(of_model[0].get("max_model_len"), int):
            names = ", ".join(str(card.get("id")) for card in cards[:5])
            raise Failed("bad_request", f"{self.address} says no max_model_len of {model}; it serves {names}")
        return of_model[0]["max_model_len"]

    def load(self, name: str, folder: Path) -> None:
        """Serve the adapter in `folder`, which the server reads itself, as model `name`; in the place of an earlier one
        of that name."""
        body = {"lora_name": name, "lora_path": str(folder), "load_inplace": True}
        self._ask("/load_lora_adapter", body, _LOAD_SECONDS)

    def unload(self, name: str) -> None:
        self._ask("/unload_lora_adapter", {"lora_name": name}, _LOAD_SECONDS)

    def loads_adapters(self, seconds: float) -> bool:
        """Whether it takes adapters at run time: where it does, it misses the names in an empty request."""
        try:
            self._ask("/load_lora_adapter", {"lora_name": "", "lora_path": ""}, seconds)
        except Failed as failed:
            if failed.status in (404, 405):
                return False
            if failed.status not in (400, 422):
                raise
        return True

    def complete(self, model: str, salt: str, prompt_ids: Sequence[int], seconds: float, **settings: Any) -> Completion:
        """Token ids in, token ids out. `salt` tells the server's prefix cache the versions of an adapter apart that
        have had the same name. What a request leaves out, vLLM takes from the model's generation_config: so nothing
        is left out."""
        choice = self._choice(model, salt, prompt_ids, seconds, {"logprobs": 0, **settings})
        ids, logprobs = choice.get("token_ids"), (choice.get("logprobs") or {}).get("token_logprobs")
        if not isinstance(ids, list) or not isinstance(logprobs, list) or not ids or len(ids) != len(logprobs):
            raise Failed(
                "malformed",
                f"{self.address} answers without token ids or logprobs: its vLLM is too old for return_token_ids",
                final=True,
            )
        if choice.get("finish_reason") not in ("stop", "length"):
            raise Failed("unreachable", f"{self.address} gave the request up ({choice.get('finish_reason')})")
        return Completion(tuple(ids), tuple(logprobs), choice["finish_reason"])

    def spread(self, model: str, prompt_ids: Sequence[int], temperature: float, seconds: float) -> float:
        """How far the logprobs of the likeliest next tokens are apart that it reports, sampling at `temperature`."""
        settings = {"logprobs": 5, "max_tokens": 1, "temperature": temperature, "top_p": 1.0, "seed": 0, "stop": []}
        shown = self._choice(model, "spread", prompt_ids, seconds, settings).get("logprobs") or {}
        reported = sorted((shown.get("top_logprobs") or [{}])[0].values()) or [0.0]
        return reported[-1] - reported[0]

    def _choice(
        self, model: str, salt: str, prompt_ids: Sequence[int], seconds: float, settings: dict[str, Any]
    ) -> dict[str, Any]:
        plain = {"n": 1, "top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0, "presence_penalty": 0.0}
        asked = {"model": model, "prompt": list(prompt_ids), "return_token_ids": True, "cache_salt": salt}
        body = asked | plain | {"frequency_penalty": 0.0} | settings
        said = loads(self._ask("/completions", body, seconds))
        choices = said.get("choices") if isinstance(said, dict) else None
        if not choices or not isinstance(choices[0], dict):
            raise Failed("malformed", f"{self.address} answers without choices")
        return choices[0]

    def _ask(self, path: str, body: dict[str, Any] | None, seconds: float) -> bytes:
        headers = {"Content-Type": "application/json", "User-Agent": "sia-runner"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        data = None if body is None else dumps(body)
        request = urllib.request.Request(self._url + path, data=data, headers=headers)  # noqa: S310 - http(s) by schema
        try:
            with self._opener.open(request, timeout=seconds) as response:
                found = response.read(BIGGEST_ANSWER + 1)
        except urllib.error.HTTPError as error:
            raise self._refused(error) from None
        except TimeoutError:
            raise Failed("timeout", f"no answer from {self.address} within {seconds:g} s") from None
        except (OSError, http.client.HTTPException, ValueError) as error:
            why = redact(" ".join(str(getattr(error, "reason", error)).split())[:200], [self._key])
            raise Failed("unreachable", f"no answer from {self.address}: {why}") from None
        if len(found) > BIGGEST_ANSWER:
            raise Failed("too_large", f"the answer of {self.address} has more than {BIGGEST_ANSWER >> 20} MiB")
        return found

    def _refused(self, error: urllib.error.HTTPError) -> Failed:
        text = error.read(64 << 10).decode(errors="replace")
        try:
            said: Any = json.loads(text)
        except (ValueError, RecursionError):
            said = text
        failed = refused(error.code, {name.lower(): value for name, value in error.headers.items()}, said)
        failed.message = redact(" ".join(failed.message.split()), [self._key])
        return failed
