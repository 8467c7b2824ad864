"""vLLM's HTTP endpoints, as far as a policy needs them. Standard library only: preflight asks before anything heavy.

The server is started with
    VLLM_ALLOW_RUNTIME_LORA_UPDATING=1
    vllm serve BASE --enable-lora --max-lora-rank 32 --logprobs-mode processed_logprobs
"""

import http.client
import os
import socket
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sia_runner.records import Json
from sia_runner.wire.failures import CallError, error_of_body
from sia_runner.wire.providers import address_of, build_opener, redact, through_proxy
from sia_runner.wire.requests import MAX_ANSWER_BYTES, dumps, loads

VLLM_KEY_VARIABLE = "VLLM_API_KEY"  # the server's own variable for --api-key
_LIKELIEST = 5  # tokens whose logprobs are compared
_LOAD_SECONDS = 300.0  # an adapter may have hundreds of megabytes, on a network file system


class _CheckedConnections(urllib.request.HTTPHandler):
    """Notices within a minute that the other machine is gone, however long an answer may take."""

    def http_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        class Connection(http.client.HTTPConnection):
            def connect(self) -> None:
                super().connect()
                self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
                for option, value in ((socket.TCP_KEEPIDLE, 30), (socket.TCP_KEEPINTVL, 10), (socket.TCP_KEEPCNT, 3)):
                    self.sock.setsockopt(socket.IPPROTO_TCP, option, value)

        return self.do_open(Connection, req)


class VllmServer:
    """The client of one vLLM server; its methods block, and raise CallError."""

    def __init__(self, base_url: str, key: str | None = None) -> None:
        """Take the address up to and including /v1, and the key of a server that the run itself started.

        Such a server is asked directly; another one through the environment's proxy, with the key in VLLM_API_KEY.
        """
        self._url, self.address = base_url.rstrip("/"), address_of(base_url)
        self._key = key or os.environ.get(VLLM_KEY_VARIABLE, "").strip() or None
        self._last_failure = ""  # what a server says before it ends, which "connection refused" does not tell
        direct = (urllib.request.ProxyHandler({}), _CheckedConnections())
        self._opener = urllib.request.build_opener(*direct) if key else build_opener(self._url)

    def is_healthy(self) -> bool:
        """Return True if the server answers, within two seconds."""
        try:
            with self._opener.open(f"{self._url.removesuffix('/v1')}/health", timeout=2.0) as answer:
                return answer.status == 200
        except (OSError, http.client.HTTPException, ValueError):
            return False

    def context(self, model: str, seconds: float) -> int:
        """Return the context length of a model in tokens, prompt and completion together."""
        cards = loads(self._ask("/models", None, seconds)).get("data", [])
        of_model = [card for card in cards if card.get("id") == model]
        if not of_model or not isinstance(of_model[0].get("max_model_len"), int):
            names = ", ".join(str(card.get("id")) for card in cards[:5])
            raise CallError("bad_request", f"{self.address} says no max_model_len of {model}; it serves {names}")
        return of_model[0]["max_model_len"]

    def load(self, name: str, folder: Path) -> None:
        """Serve the adapter in `folder`, which the server reads itself, as model `name`.

        It is not loaded in place: a server would then read it again at every step. One of that name has that content.
        """
        try:
            self._ask("/load_lora_adapter", {"lora_name": name, "lora_path": str(folder)}, _LOAD_SECONDS)
        except CallError as failed:
            if "already been loaded" not in failed.message:
                raise

    def unload(self, name: str, seconds: float = _LOAD_SECONDS) -> None:
        """Stop serving the adapter `name`."""
        self._ask("/unload_lora_adapter", {"lora_name": name}, seconds)

    def loads_adapters(self, seconds: float) -> bool:
        """Return True if the server takes adapters at run time: then it refuses a request with empty names."""
        try:
            self._ask("/load_lora_adapter", {"lora_name": "", "lora_path": ""}, seconds)
        except CallError as failed:
            if failed.status in (404, 405):
                return False
            if failed.status not in (400, 422):
                raise
        return True

    def complete(
        self, model: str, salt: str, prompt_ids: Sequence[int], seconds: float, **settings: Any
    ) -> tuple[tuple[int, ...], tuple[float, ...], str]:
        """Complete token ids; return ids, logprobs (natural log) and "stop" or "length".

        `salt` separates, in the server's prefix cache, versions of an adapter that had the same name. Every setting is
        sent, because vLLM takes missing ones from the model's generation_config.
        """
        choice = self._choice(model, salt, prompt_ids, seconds, {"logprobs": 0, **settings})
        ids, logprobs = choice.get("token_ids"), (choice.get("logprobs") or {}).get("token_logprobs")
        if not isinstance(ids, list) or not isinstance(logprobs, list) or not ids or len(ids) != len(logprobs):
            raise CallError(
                "malformed",
                f"{self.address} answers without token ids or logprobs: its vLLM is too old for return_token_ids",
                final=True,
            )
        if choice.get("finish_reason") not in ("stop", "length"):
            raise CallError("unreachable", f"{self.address} gave the request up ({choice.get('finish_reason')})")
        return tuple(ids), tuple(logprobs), choice["finish_reason"]

    def score(self, model: str, salt: str, ids: Sequence[int], count: int, seconds: float) -> list[float]:
        """Return the logprobs of the last `count` of `ids`, at temperature 1; one token is sampled besides."""
        settings: Json = {"prompt_logprobs": 0, "logprobs": 0, "max_tokens": 1, "temperature": 1.0, "top_p": 1.0}
        scores = self._choice(model, salt, ids, seconds, settings | {"seed": 0, "stop": []}).get("prompt_logprobs")
        if not isinstance(scores, list) or len(scores) != len(ids):
            raise CallError("malformed", f"{self.address} answers without prompt_logprobs", final=True)
        return [float(scores[at][str(ids[at])]["logprob"]) for at in range(len(ids) - count, len(ids))]

    def logprob_range(self, model: str, prompt_ids: Sequence[int], temperature: float, seconds: float) -> float:
        """Return the range of the logprobs of the likeliest next tokens, in nats, at `temperature`."""
        settings = {"logprobs": _LIKELIEST, "max_tokens": 1, "temperature": temperature, "top_p": 1.0, "seed": 0}
        settings |= {"stop": [], "return_tokens_as_token_ids": True}  # texts of two tokens may be equal
        logprobs = self._choice(model, "spread", prompt_ids, seconds, settings).get("logprobs") or {}
        # The sampled token stands beside the likeliest ones, and may be far below them.
        likeliest = sorted((logprobs.get("top_logprobs") or [{}])[0].values(), reverse=True)[:_LIKELIEST] or [0.0]
        return likeliest[0] - likeliest[-1]

    def _choice(self, model: str, salt: str, prompt_ids: Sequence[int], seconds: float, settings: Json) -> Json:
        plain = {"n": 1, "top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0, "presence_penalty": 0.0}
        request = {"model": model, "prompt": list(prompt_ids), "return_token_ids": True, "cache_salt": salt}
        body = request | plain | {"frequency_penalty": 0.0} | settings
        answer = loads(self._ask("/completions", body, seconds))
        choices = answer.get("choices") if isinstance(answer, dict) else None
        if not choices or not isinstance(choices[0], dict):
            raise CallError("malformed", f"{self.address} answers without choices")
        return choices[0]

    def _ask(self, path: str, body: Json | None, seconds: float) -> bytes:
        headers = {"Content-Type": "application/json", "User-Agent": "sia-runner"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        data = None if body is None else dumps(body)
        request = urllib.request.Request(self._url + path, data=data, headers=headers)  # noqa: S310 - http(s) by schema
        try:
            with self._opener.open(request, timeout=seconds) as response:
                answer = response.read(MAX_ANSWER_BYTES + 1)
        except urllib.error.HTTPError as error:
            failed = error_of_body(error.code, dict(error.headers.items()), error.read(64 << 10))
            failed.message = redact(" ".join(failed.message.split()), [self._key])
            if error.code >= 500:
                self._last_failure = f"; it had failed with: {failed.message[:300]}"
            raise failed from None
        except TimeoutError:
            raise CallError("timeout", f"no answer from {self.address} within {seconds:g} s") from None
        except (OSError, http.client.HTTPException, ValueError) as error:
            why = redact(" ".join(str(getattr(error, "reason", error)).split())[:200], [self._key])
            details = f"{through_proxy(self._url)}: {why}{self._last_failure}; see the server's own log"
            raise CallError("unreachable", f"no answer from {self.address}{details}") from None
        if len(answer) > MAX_ANSWER_BYTES:
            raise CallError("too_large", f"the answer of {self.address} has more than {MAX_ANSWER_BYTES >> 20} MiB")
        return answer
