"""The clients that people use, unmodified, inside a sandbox: they find the gateway by their environment variables."""

import secrets
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

pytest.importorskip("openai")
pytest.importorskip("anthropic")

from sia_runner.config.components import HostedProvider, TokenPrices
from sia_runner.config.experiment import BudgetConfig
from sia_runner.gateway.service import GatewayService
from sia_runner.wire.grants import Grant
from tests.provider import Answer, ProviderServer, Request
from tests.sandbox.conftest import Box

OPENAI = """
import openai
client = openai.OpenAI(max_retries=0)
question = {'model': 'scripted', 'messages': [{'role': 'user', 'content': 'what?'}]}
print(client.chat.completions.create(**question).choices[0].message.content)
stream = client.chat.completions.create(stream=True, **question)
parts = [part.choices[0].delta.content or '' for part in stream if part.choices]
print(''.join(parts), len(parts) > 2)
print(client.models.list().data[0].id)
"""
ANTHROPIC = """
import anthropic
client = anthropic.Anthropic(max_retries=0)
question = {'model': 'scripted', 'max_tokens': 100, 'messages': [{'role': 'user', 'content': 'what?'}]}
print(client.messages.create(**question).content[0].text)
with client.messages.stream(**question) as stream:
    parts = list(stream.text_stream)
print(''.join(parts), len(parts) > 2)
"""
ASYNC = """
import asyncio
async def main():
    async with openai.AsyncOpenAI(max_retries=0) as client:
        ask = lambda n: client.chat.completions.create(model='scripted', messages=[{'role': 'user', 'content': str(n)}])
        answers = await asyncio.gather(*map(ask, range(64)))
    print({answer.choices[0].message.content for answer in answers}, len(answers))
asyncio.run(main())
"""
LITELLM = """
import litellm
question = [{'role': 'user', 'content': 'what?'}]
for model in ('openai/scripted', 'anthropic/scripted'):
    print('answer:', litellm.completion(model=model, messages=question, num_retries=0).choices[0].message.content)
"""


SEEK = """
import glob, os
for pid in [*range(1, 4000), os.getppid(), 'self']:
    for name in ('environ', 'cmdline'):
        try:
            print(pid, name, open(f'/proc/{pid}/{name}', 'rb').read(100000))
        except OSError:
            pass
for path in glob.glob('/proc/[0-9]*/fd/*') + glob.glob('/sandbox/**', recursive=True) + glob.glob('/tmp/*'):
    try:
        print(path, os.read(os.open(path, os.O_RDONLY | os.O_NONBLOCK), 100000))
    except OSError:
        pass
"""


def answer(_: Request) -> Answer:
    return Answer("forty-two, of course", chunks=8)


@dataclass
class Served:
    """A provider, the gateway in front of it, and the provider's key, which only the gateway knows."""

    provider: ProviderServer
    models: GatewayService
    key: str
    folder: Path

    def run(self, box: Box, program: str) -> str:
        job = box.job(program, seconds=60, memory_mb=2048)
        with self.models.open_session(
            Grant("target", 1, "gen_1", "trial", self.folder / "trajectories.jsonl")
        ) as session:
            ran = box.run_job(replace(job, gateway=session.address))
            assert session.usage().calls == self.provider.tally.calls
        assert ran.ended.exit_code == 0, ran.log
        assert self.key not in ran.log
        return ran.log


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    key = secrets.token_hex(16)
    monkeypatch.setenv("SIA_TEST_KEY", key)
    with ProviderServer(answer, models=("scripted",), keys=(key,)) as provider:
        named = {"name": "custom", "kind": "hosted", "api": "openai", "litellm": "openai", "model": "scripted"}
        limits = {
            "timeout": 20.0,
            "attempts": 3,
            "max_wait_seconds": 0.05,
            "prices": TokenPrices(input=1.0, output=2.0),
        }
        hosted = HostedProvider.model_validate(
            {**named, **limits, "base_url": provider.base_url, "key": "SIA_TEST_KEY"}
        )
        models = GatewayService({"target": hosted}, tmp_path / "ledger", BudgetConfig(), tmp_path / "cache")
        yield Served(provider, models, key, tmp_path)
        models.close()


def test_the_openai_client_asks_streams_lists_does_64_things_at_once_and_nowhere_finds_the_providers_key(
    own_open_box: Box, served: Served
) -> None:
    log = served.run(own_open_box, OPENAI + ASYNC + SEEK)
    said = "forty-two, of course"
    assert log.splitlines()[:4] == [said, f"{said} True", "scripted", f"{{{said!r}}} 64"]
    assert served.provider.tally.calls == 2 + 64
    assert {request.key for request in served.provider.requests} == {served.key}  # so it was used all the same


@pytest.mark.slow  # its imports take seconds where site-packages hold no bytecode
def test_the_anthropic_client_asks_and_streams(own_open_box: Box, served: Served) -> None:
    log = served.run(own_open_box, ANTHROPIC)
    assert log == "forty-two, of course\nforty-two, of course True\n"
    assert served.provider.tally.calls == 2


@pytest.mark.slow
def test_litellm_asks_both_ways(own_open_box: Box, served: Served) -> None:
    pytest.importorskip("litellm")
    assert served.run(own_open_box, LITELLM).count("answer: forty-two, of course\n") == 2
    assert served.provider.tally.calls == 2
