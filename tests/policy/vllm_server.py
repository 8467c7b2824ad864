"""A server with vLLM's endpoint names, backed by our own engine: what vLLM does for a policy, without vLLM.

Weights of an adapter are read when it is loaded, requests are answered with token ids and logprobs in vLLM's shape, and
settings that a request leaves out come from the model's own defaults (`defaults`), as vLLM takes them.

As a program it takes vLLM's options, and stands where a run starts `vllm serve`: see `COMMAND`.
"""

import argparse
import asyncio
import json
import os
import shutil
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

from aiohttp import web

from sia_runner.policy.engine import PolicyEngine, RequestBatcher
from sia_runner.records import SampledCall
from sia_runner.wire.policy import PolicyRequest

FULL = {"n": 1, "top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0, "presence_penalty": 0.0, "frequency_penalty": 0.0}


class _Ids:
    """The engine, asked with token ids in the place of messages."""

    def __init__(self, engine: PolicyEngine) -> None:
        self.spec, self.answer = engine.spec, engine.answer

    @staticmethod
    def prompt_ids(ask: PolicyRequest) -> list[int]:
        return list(ask.messages)  # pyright: ignore[reportArgumentType, reportReturnType]


class VllmServer:
    """Runs in a thread. `lora`: VLLM_ALLOW_RUNTIME_LORA_UPDATING; `processed`: --logprobs-mode processed_logprobs."""

    def __init__(
        self,
        engine: PolicyEngine,
        folder: Path,
        *,
        name: str = "",
        lora: bool = True,
        processed: bool = True,
        rank: int = 32,
        host: str = "127.0.0.1",
        port: int = 0,
        key: str = "",
    ) -> None:
        self.engine, self.name = engine, name or engine.base_id
        self.processed, self.rank, self.key, self.tail = processed, rank, key, False
        self.adapters: dict[str, Path] = {}
        self.loads: list[tuple[str, str]] = []
        self.asked: list[dict[str, Any]] = []
        self.before: Callable[[web.Request], web.Response | None] = lambda request: None
        self._folder, self._lora, self._batching = (
            folder,
            lora,
            RequestBatcher(lambda: cast(PolicyEngine, _Ids(engine))),
        )
        self._batching.start()
        self._at = host, port
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self.url = asyncio.run_coroutine_threadsafe(self._start(), self._loop).result(30)

    async def _start(self) -> str:
        app = web.Application(middlewares=[self._first])
        app.router.add_get("/health", self._health)
        app.router.add_get("/v1/models", self._models)
        app.router.add_post("/v1/completions", self._completions)
        if self._lora:
            app.router.add_post("/v1/load_lora_adapter", self._load)
            app.router.add_post("/v1/unload_lora_adapter", self._unload)
        self._runner = web.AppRunner(app)
        await self._runner.setup()
        site = web.TCPSite(self._runner, *self._at)
        await site.start()
        return f"http://127.0.0.1:{self._runner.addresses[0][1]}/v1"

    def close(self) -> None:
        """Safe to call twice."""
        if self._loop.is_closed():
            return
        self._batching.close()
        asyncio.run_coroutine_threadsafe(self._runner.cleanup(), self._loop).result(30)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def restart(self) -> None:
        """Adapters are in memory only."""
        self.adapters.clear()

    @web.middleware
    async def _first(self, request: web.Request, handler: Any) -> web.StreamResponse:
        if self.key and request.path.startswith("/v1") and request.headers.get("Authorization") != f"Bearer {self.key}":
            return web.json_response({"error": "Unauthorized"}, status=401)
        return self.before(request) or await handler(request)

    async def _health(self, _: web.Request) -> web.Response:
        return web.Response()

    async def _models(self, _: web.Request) -> web.Response:
        base = {"id": self.name, "object": "model", "root": self.name, "max_model_len": self.engine.context}
        served = [{"id": name, "object": "model", "parent": self.name} for name in self.adapters]
        return web.json_response({"object": "list", "data": [base, *served]})

    async def _load(self, request: web.Request) -> web.Response:
        body = await request.json()
        name, path = body["lora_name"], body["lora_path"]
        if not name or not path:
            return _error(400, "Both 'lora_name' and 'lora_path' must be provided.")
        if name in self.adapters and not body.get("load_inplace"):
            return _error(400, f"The lora adapter '{name}' has already been loaded.")
        if not (Path(path) / "adapter_config.json").is_file():
            return _error(404, f"No adapter found for {path}")
        rank = json.loads((Path(path) / "adapter_config.json").read_text())["r"]
        if rank > self.rank:
            return _error(500, f"LoRA rank {rank} is greater than max_lora_rank {self.rank}.")
        self.loads.append((name, path))
        self.adapters[name] = Path(shutil.copytree(path, self._folder / f"{name}-{len(self.loads)}"))
        return web.Response(text=f"Success: LoRA adapter '{name}' added successfully.")

    async def _unload(self, request: web.Request) -> web.Response:
        name = (await request.json())["lora_name"]
        if self.adapters.pop(name, None) is None:
            return _error(404, f"The lora adapter '{name}' cannot be found.")
        return web.Response(text=f"Success: LoRA adapter '{name}' removed successfully.")

    async def _completions(self, request: web.Request) -> web.Response:
        body = await request.json()
        self.asked.append(body)
        if body["model"] != self.name and body["model"] not in self.adapters:
            return _error(404, f"The model `{body['model']}` does not exist.")
        assert {key: body.get(key) for key in FULL} == FULL, "else the model's generation_config would decide"
        answer = await asyncio.wrap_future(self._batching.submit(self._ask(body)))
        return web.json_response(self.shape(body, answer))

    def _ask(self, body: dict[str, Any]) -> PolicyRequest:
        return PolicyRequest(
            messages=body["prompt"],
            max_tokens=body["max_tokens"],
            temperature=body["temperature"],
            top_p=body["top_p"],
            seed=body["seed"],
            stop=tuple(body["stop"]),
            weights=self.adapters.get(body["model"]),
        )

    def shape(self, body: dict[str, Any], answer: SampledCall) -> dict[str, Any]:
        shown = {
            "tokens": self.engine.tokenizer.convert_ids_to_tokens(list(answer.completion_ids)),
            "token_logprobs": list(answer.logprobs),
            "top_logprobs": self._top(body) if body["logprobs"] else None,
        }
        choice = {"index": 0, "text": answer.text, "logprobs": shown, "finish_reason": answer.finish_reason}
        if body.get("return_token_ids"):
            choice |= {"token_ids": list(answer.completion_ids), "prompt_token_ids": body["prompt"]}
        if body.get("prompt_logprobs") is not None:
            choice["prompt_logprobs"] = self._prompt_logprobs(body)
        return {"id": "cmpl-1", "object": "text_completion", "model": body["model"], "choices": [choice]}

    def _prompt_logprobs(self, body: dict[str, Any]) -> list[dict[str, Any] | None]:
        """At temperature 1 in vLLM too, whatever is asked for."""
        import torch

        engine, ids = self.engine, body["prompt"]
        with torch.no_grad(), engine.lock, engine._adapters.restored_afterwards():
            engine._adapters.use(self.adapters.get(body["model"]))
            logprob_tv = engine.model(torch.tensor([ids])).logits[0].double().log_softmax(-1)
        following = enumerate(ids[1:])
        shown = [{str(token): {"logprob": float(logprob_tv[at, token]), "rank": 1}} for at, token in following]
        return [None, *shown]

    def _top(self, body: dict[str, Any]) -> list[dict[str, float]]:
        """Of the first position, without an adapter."""
        import torch

        with torch.no_grad(), self.engine.lock:
            logits_v = self.engine.model(torch.tensor([body["prompt"]])).logits[0, -1].double()
        logprob_v = (logits_v / (body["temperature"] if self.processed else 1.0)).log_softmax(-1)
        values, tokens = logprob_v.topk(body["logprobs"])
        top = dict(zip(tokens.tolist(), values.tolist(), strict=True))
        if self.tail and body["temperature"] > 1:  # the sampled token, beside the likeliest ones
            token = int(logprob_v.argmin())
            top[token] = float(logprob_v[token])
        return [{f"token_id:{token}": value for token, value in top.items()}]


def _error(status: int, message: str) -> web.Response:
    return web.json_response({"error": {"message": message, "type": "BadRequestError", "code": status}}, status=status)


COMMAND = [sys.executable, "-m", "tests.policy.vllm_server"]  # target_agent.policy.vllm.command; PYTHONPATH is the root


def main() -> None:
    from tests.policy.checkpoints import no_texts, spec

    parser = argparse.ArgumentParser()
    parser.add_argument("base")
    parser.add_argument("--host")
    parser.add_argument("--port", type=int)
    parser.add_argument("--served-model-name")
    options, _ = parser.parse_known_args()
    folder = Path(tempfile.mkdtemp())
    # one request at a time: sums over other batches would round otherwise, and scores are compared
    engine = PolicyEngine(spec(options.base, trust_base=True, max_batch_size=1), folder, no_texts)
    at = {"host": options.host, "port": options.port, "key": os.environ["VLLM_API_KEY"]}
    VllmServer(engine, folder, name=options.served_model_name, rank=512, **at)
    threading.Event().wait()


if __name__ == "__main__":
    main()
