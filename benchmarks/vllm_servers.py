"""Measures managed vLLM: rollouts through gateway and policy against vLLM asked directly, and swaps of an adapter.

python benchmarks/vllm_servers.py BASE [--vllm PYTHON] [--servers 1] [--rank 8] [--calls 64] [--callers 8] [--tokens 32]

One run: the servers start, an adapter is published, and the same chats go to both in turn, with the adapter. Directly:
chat completions at the servers, from a load generator in a process of its own. Through the run: the same generator at
the gateway's socket, as a harness asks. Then adapters are swapped, and what the servers read is counted.
"""

import argparse
import asyncio
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil

from sia_runner.config.experiment import BudgetConfig
from sia_runner.config.training import LoraSettings, PolicyConfig
from sia_runner.gateway.service import GatewayService
from sia_runner.policy.backend import PolicyBackend
from sia_runner.policy.engine import PolicyEngine
from sia_runner.policy.remote import RequestForwarder
from sia_runner.policy.vllm import VllmPolicy
from sia_runner.policy.vllm_servers import ManagedServers
from sia_runner.wire.grants import Grant

CPU_ARGUMENTS = [
    "--max-model-len",
    "1024",
    "--enforce-eager",
    "--no-enable-chunked-prefill",
    "--max-num-batched-tokens",
    "16384",
]


def main() -> None:
    if sys.argv[1:] == ["--load"]:
        json.dump(asyncio.run(load(json.load(sys.stdin))), sys.stdout)
        return
    args = _arguments()
    module = [args.vllm, "-m", "vllm.entrypoints.openai.api_server", "--model"] if args.vllm else ["vllm", "serve"]
    vllm = {"servers": args.servers, "command": module, "args": [] if args.gpu else CPU_ARGUMENTS}
    spec = PolicyConfig.model_validate({"base": args.base, "backend": "vllm", "vllm": vllm})
    with tempfile.TemporaryDirectory(prefix="sia-vllm-benchmark-") as path:
        folder = Path(path)
        servers = ManagedServers(spec, args.rank, folder / "servers", print)
        began = time.monotonic()
        policy = VllmPolicy(spec, folder / "served", lambda: PolicyEngine(spec, folder, list), servers)
        print(f"{args.servers} servers answer after {time.monotonic() - began:.0f} s", flush=True)
        models = GatewayService(
            {}, folder / "ledger", BudgetConfig(), folder / "cache",
            policy=PolicyBackend(spec, RequestForwarder(lambda: policy, servers)),
        )  # fmt: skip
        try:
            rows = [*measure(args, models, policy, servers, folder)]
        finally:
            models.close()
    print(f"\n{os.cpu_count()} cores, Python {platform.python_version()}, {args.base}, rank {args.rank}\n")
    widths = [max(len(row[at]) for row in rows) for at in range(4)]
    for row in rows:
        print("| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |")


def measure(args: Any, models: GatewayService, policy: VllmPolicy, servers: Any, folder: Path) -> Iterator[list[str]]:
    yield ["figure", "directly", "gateway and policy", "share"]
    yield ["---", "---:", "---:", "---:"]
    lora = LoraSettings(rank=args.rank, alpha=2 * args.rank)
    grant = Grant("target", 1, "gen_1", "rollout", None, live=True, sample=0, temperature=1.0)
    with policy.learner(lora, None, 0, critic=False, work=folder / "work") as learner:
        learner.publish()
        name = policy.sampler._live.name  # pyright: ignore[reportPrivateUsage, reportOptionalMemberAccess]
        with models.open_session(grant, "openai") as session:
            gateway = {"url": "http://gateway/v1", "key": session.address.env["OPENAI_API_KEY"]}
            gateway |= {"socket": str(session.address.socket), "model": "policy"}
            direct = [
                {"url": server.client._url, "key": server.client._key, "model": name}
                for server in servers._servers  # of the benchmark's own
            ]
            rates: dict[str, list[float]] = {"direct": [], "gateway": []}
            for turn in range(args.rounds + 1 if args.rounds else 0):
                order = [("direct", direct), ("gateway", [gateway])]
                for which, targets in order if turn % 2 else reversed(order):  # a busy minute hits both
                    done = _run_load(args, targets, turn)
                    print(f"{which}: {done['tokens']} tokens in {done['seconds']:.1f} s", flush=True)
                    if turn:  # the first one warms up
                        rates[which].append(done["tokens"] / done["seconds"])
        if not args.rounds:
            yield from _swaps(args, learner, policy, servers)
            return
        plain, through = (statistics.median(rates[which]) for which in ("direct", "gateway"))
        figure = f"tokens a second, {args.callers} callers, {args.tokens} tokens each"
        yield [figure, f"{plain:.1f}", f"{through:.1f}", f"{through / plain:.0%}, target >= 90%"]
        yield from _swaps(args, learner, policy, servers)


def _swaps(args: Any, learner: Any, policy: VllmPolicy, servers: Any) -> Iterator[list[str]]:
    """Publish versions; count what the servers read from the disk meanwhile, in the first requests, and in later ones.

    Adapters are mapped into memory, which no counter of system calls sees: so the pages of the file are dropped first.
    """
    seconds: list[float] = []
    read: dict[str, list[float]] = {"swap": [], "first request": [], "four more": []}
    files: list[Path] = []

    def publish(write: Any) -> str:
        def write_and_drop(folder: Path) -> None:
            write(folder)
            files[:] = folder.rglob("*.safetensors")
            _drop_pages(files)

        return policy.sampler.publish(write_and_drop)

    learner._serve = publish
    for _ in range(args.swaps):
        counted = _bytes_read(servers)
        began = time.monotonic()
        learner.publish()
        seconds.append(time.monotonic() - began)
        live = policy.sampler._live  # pyright: ignore[reportPrivateUsage]
        name, version = (live.name, live.version) if live else ("", "")
        plain = {"max_tokens": 1, "seed": 0, "temperature": 1.0, "top_p": 1.0, "stop": []}
        for what, requests in (("swap", 0), ("first request", 1), ("four more", 4)):
            for number in range(requests):
                servers.complete(name, version, [1, 2, 3 + number], 600.0, **plain)
            total = _bytes_read(servers)
            read[what].append(total - counted)
            counted = total
            _drop_pages(files)
    yield ["seconds of a swap: write, load everywhere, unload", "", f"{statistics.median(seconds):.2f}", ""]
    size = sum(file.stat().st_size for file in files)
    yield ["megabytes of the adapter", "", f"{size / 1e6:.2f}", ""]
    for what, values in read.items():
        yield [f"megabytes that the servers read: {what}", "", f"{statistics.median(values) / 1e6:.2f}", ""]


def _drop_pages(files: Sequence[Path]) -> None:
    for path in files:
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _bytes_read(servers: Any) -> float:
    """Return the bytes that all processes of the servers have had read from a disk so far."""
    total = 0
    for server in servers._servers:
        for process in psutil.Process(server.guard.pid).children(recursive=True):
            total += process.io_counters().read_bytes  # pyright: ignore[reportAttributeAccessIssue]
    return total


def _run_load(args: Any, targets: list[dict[str, Any]], turn: int) -> dict[str, Any]:
    options = {"targets": targets, "calls": args.calls, "callers": args.callers, "tokens": args.tokens, "turn": turn}
    command = [sys.executable, __file__, "--load"]
    done = subprocess.run(command, input=json.dumps(options), stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout)


async def load(options: dict[str, Any]) -> dict[str, float]:
    """Send the calls, by callers who each wait for their answer; return tokens and seconds."""
    import aiohttp

    sessions: list[tuple[Any, dict[str, Any]]] = []
    for target in options["targets"]:
        path = target.get("socket")
        connector = aiohttp.UnixConnector(path, limit=0) if path else aiohttp.TCPConnector(limit=0)
        headers = {"authorization": f"Bearer {target['key']}"}
        timeout = aiohttp.ClientTimeout(total=None)
        sessions.append((aiohttp.ClientSession(connector=connector, headers=headers, timeout=timeout), target))
    numbers, tokens = iter(range(options["calls"])), 0

    async def caller() -> None:
        nonlocal tokens
        for n in numbers:
            session, target = sessions[n % len(sessions)]
            question = f"What is {n} plus {options['turn']}? Explain each step of the sum, and why it is right. " * 4
            body = {"model": target["model"], "messages": [{"role": "user", "content": question}], "user": f"q{n}"}
            body |= {"max_tokens": options["tokens"], "temperature": 1.0, "seed": n}
            async with session.post(target["url"] + "/chat/completions", json=body) as response:
                answer = await response.json()
                if response.status != 200:
                    raise RuntimeError(f"status {response.status}: {answer}")
            tokens += answer["usage"]["completion_tokens"]

    began = time.perf_counter()
    await asyncio.gather(*(caller() for _ in range(options["callers"])))
    seconds = time.perf_counter() - began
    for session, _ in sessions:
        await session.close()
    return {"tokens": tokens, "seconds": seconds}


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base", help="a folder or hub id")
    parser.add_argument("--vllm", help="an interpreter that has vLLM; without it the command vllm is used")
    parser.add_argument("--gpu", action="store_true", help="leave out the options for a CPU")
    parser.add_argument("--servers", type=int, default=1)
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--calls", type=int, default=64)
    parser.add_argument("--callers", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=4, help="of the load, after one to warm up; 0: swaps only")
    parser.add_argument("--swaps", type=int, default=5)
    return parser.parse_args()


if __name__ == "__main__":
    main()
