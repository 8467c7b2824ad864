"""Measures what the gateway adds to a call: the same local provider, directly and through the gateway, side by side.

python benchmarks/gateway.py [--seconds 60] [--calls 20000] [--callers 32]

Provider, gateway and load generator are three processes. Direct calls go over loopback TCP; the others over the
gateway's Unix socket and then loopback TCP.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sia_runner.config.components import HostedProvider, TokenPrices
from sia_runner.config.experiment import BudgetConfig
from sia_runner.gateway.service import GatewayService
from sia_runner.wire.grants import Grant

HERE = Path(__file__).resolve().parent
KEY = "SIA_TEST_KEY"
RATE = 20  # requests a second of the open loop

Where = Mapping[str, str]
Row = tuple[str, str, str, str]


def main() -> None:
    args = _arguments()
    os.environ[KEY] = "test-key"
    with tempfile.TemporaryDirectory(prefix="sia-gateway-benchmark-") as folder, _provider() as url:
        models = _models(url, Path(folder), args.callers)
        grant = Grant("target", 1, "gen_1", "select", Path(folder) / "trajectories.jsonl")
        with models.open_session(grant) as session:
            direct = {"url": url, "key": os.environ[KEY]}
            gateway = {
                "url": "http://gateway/v1",
                "key": session.address.env["OPENAI_API_KEY"],
                "socket": str(session.address.socket),
            }
            rows = [
                *_latency(direct, gateway, args.seconds),
                _throughput(direct, gateway, args.callers),
                *_endurance(models, url, gateway, args.calls, args.callers),
            ]
        models.close()
    print(f"\n{os.cpu_count()} cores, Python {platform.python_version()}, {platform.system()} {platform.release()}\n")
    print(_table([("figure", "directly", "gateway", "target"), ("---", "---:", "---:", "---:"), *rows]))


def _latency(direct: Where, gateway: Where, seconds: float) -> list[Row]:
    direct_times, gateway_times = _load({"targets": [direct, gateway], "rate": RATE, "seconds": seconds})
    rows = []
    for name, share, limit in (("p50", 0.50, 10), ("p99", 0.99, 50)):
        plain, through = (_quantile(values, share) * 1000 for values in (direct_times, gateway_times))
        figure = f"{name} of a call, open loop at {RATE}/s (ms)"
        rows.append((figure, f"{plain:.1f}", f"{through:.1f}", f"<= {limit} more: {through - plain:+.1f}"))
    return rows


def _throughput(direct: Where, gateway: Where, callers: int) -> Row:
    plain, through = (
        2000 / statistics.median(_load({"targets": [target], "callers": callers, "calls": 2000}) for _ in range(3))
        for target in (direct, gateway)
    )
    return (f"calls a second, {callers} callers, closed loop", f"{plain:.0f}", f"{through:.0f}", ">= 150")


def _endurance(models: GatewayService, url: str, gateway: Where, calls: int, callers: int) -> list[Row]:
    before, usage_before, began = _tally(url), models.ledger.usage(), _resident()
    seconds = _load({"targets": [gateway], "callers": callers, "calls": calls})
    after, usage_after, resident_after = _tally(url), models.ledger.usage(), _resident()
    server = (after["calls"] - before["calls"], _tokens(after) - _tokens(before))
    ledger = (usage_after.calls - usage_before.calls, usage_after.tokens - usage_before.tokens)
    same = "equal" if server == ledger else "NOT EQUAL"
    return [
        (f"calls counted, of {calls:,} and 50 to warm up", f"{server[0]:,}", f"{ledger[0]:,}", same),
        ("tokens counted", f"{server[1]:,}", f"{ledger[1]:,}", same),
        (f"calls a second over {calls:,} calls", "", f"{calls / seconds:.0f}", ">= 150"),
        ("resident memory before and after (MB)", f"{began:.0f}", f"{resident_after:.0f}", "flat"),
    ]


def _load(options: dict[str, Any]) -> Any:
    command = [sys.executable, str(HERE / "_load.py")]
    done = subprocess.run(command, input=json.dumps(options), stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout)


@contextmanager
def _provider() -> Iterator[str]:
    command = [sys.executable, "-m", "tests.provider", str(HERE / "_scripted.py:answer")]
    with subprocess.Popen(
        command, cwd=HERE.parent, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin and process.stdout
        yield process.stdout.readline().strip()
        process.stdin.close()


def _models(url: str, folder: Path, callers: int) -> GatewayService:
    hosted = HostedProvider(
        name="custom",
        kind="hosted",
        api="openai",
        litellm="openai",
        model="scripted",
        base_url=url,
        key=KEY,
        concurrency=callers,
        prices=TokenPrices(input=1.0, output=2.0),
    )
    return GatewayService({"target": hosted}, folder / "ledger", BudgetConfig(), folder / "cache")


def _tally(url: str) -> dict[str, int]:
    with urllib.request.urlopen(url.removesuffix("/v1") + "/tally") as response:
        return json.load(response)


def _tokens(tally: Mapping[str, int]) -> int:
    return tally["input_tokens"] + tally["output_tokens"]


def _resident() -> float:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def _quantile(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def _table(rows: list[Row]) -> str:
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    return "\n".join(
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in rows
    )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60, metavar="S", help="of the open loop (60)")
    parser.add_argument("--calls", type=int, default=20_000, metavar="N", help="of the long run (20000)")
    parser.add_argument("--callers", type=int, default=32, metavar="N", help="at the same time (32)")
    return parser.parse_args()


if __name__ == "__main__":
    main()
