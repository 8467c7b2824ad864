"""A load generator, in a process of its own: what to send as JSON on standard input, latencies on standard output."""

import asyncio
import json
import sys
import time
from typing import Any

import aiohttp

_QUESTION = {"role": "user", "content": "Which of these is the right answer, and why? " * 10}


class Target:
    """The address that requests go to: a base URL over TCP, or over a Unix socket."""

    def __init__(self, where: dict[str, str]) -> None:
        self.url = where["url"] + "/chat/completions"
        self.headers = {"authorization": f"Bearer {where['key']}"}
        path = where.get("socket")
        connector = aiohttp.UnixConnector(path, limit=0) if path else aiohttp.TCPConnector(limit=0)
        self.session = aiohttp.ClientSession(connector=connector)

    async def ask(self, n: int) -> float:
        """Seconds that one call took."""
        body = {"model": "scripted", "messages": [_QUESTION], "user": f"q{n}", "max_tokens": 256}
        began = time.perf_counter()
        async with self.session.post(self.url, json=body, headers=self.headers) as response:
            answer = await response.json()
            if response.status != 200 or not answer["choices"][0]["message"]["content"]:
                raise RuntimeError(f"status {response.status}: {answer}")
        return time.perf_counter() - began


async def open_loop(targets: list[Target], rate: float, seconds: float) -> list[list[float]]:
    """`rate` requests a second to each target, sent on time whether or not the ones before are answered."""
    calls: list[list[asyncio.Task[float]]] = [[] for _ in targets]
    began = time.perf_counter()
    for n in range(int(rate * seconds)):
        for index, target in enumerate(targets):
            due_time = began + (n + index / len(targets)) / rate
            await asyncio.sleep(max(0.0, due_time - time.perf_counter()))
            calls[index].append(asyncio.create_task(target.ask(n)))
    return [list(await asyncio.gather(*tasks)) for tasks in calls]


async def closed_loop(target: Target, callers: int, calls: int) -> float:
    """Seconds for `calls` calls by so many callers, each of whom waits for its answer."""
    numbers = iter(range(calls))

    async def caller() -> None:
        for n in numbers:
            await target.ask(n)

    began = time.perf_counter()
    await asyncio.gather(*(caller() for _ in range(callers)))
    return time.perf_counter() - began


async def main() -> None:
    options = json.load(sys.stdin)
    targets = [Target(where) for where in options["targets"]]
    result: Any
    for target in targets:
        await closed_loop(target, 4, 50)  # warm
    if "rate" in options:
        result = await open_loop(targets, options["rate"], options["seconds"])
    else:
        result = await closed_loop(targets[0], options["callers"], options["calls"])
    for target in targets:
        await target.session.close()
    json.dump(result, sys.stdout)


if __name__ == "__main__":
    asyncio.run(main())
