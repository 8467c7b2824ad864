"""The server speaks what the real clients expect; what it counts is what it said."""

import json
import socket
import subprocess
import sys
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import anthropic
import httpx
import openai
import pytest

from tests.provider import (
    Answer,
    Endless,
    Hang,
    Huge,
    Malformed,
    ProviderServer,
    Request,
    Reset,
    Status,
    Tally,
    Truncated,
)

ROOT = Path(__file__).resolve().parents[2]
ASK: list[Any] = [{"role": "system", "content": "You are brief."}, {"role": "user", "content": "What is two and two?"}]
TOOL = {"type": "object", "properties": {"path": {"type": "string"}}}
OPENAI_TOOLS = [{"type": "function", "function": {"name": "read_file", "parameters": TOOL}}]
ANTHROPIC_TOOLS = [{"name": "read_file", "input_schema": TOOL}]
LONG = "Zwölf Boxkämpfer jagen Viktor. " * 20


def script(request: Request):
    word = request.last.split()[0] if request.last else ""
    return {
        "tool": Answer("Let me look.", (("read_file", {"path": "a b"}), ("read_file", {"path": "ü"}))),
        "exact": Answer(LONG, input_tokens=100, output_tokens=7, cached_tokens=60),
        "long": Answer(LONG),
        "slow": Status(429, {"retry-after": "3"}, "slow down"),
        "reset": Reset(),
        "midway": Reset(after=2),
        "hang": Hang(0.2),
        "truncated": Truncated(),
        "malformed": Malformed(),
        "endless": Endless(),
        "huge": Huge(3 << 20),
        "length": Answer("half", finish_reason="length"),
        "late": Answer("late", delay=0.3),
    }.get(word, Answer("Four."))


@pytest.fixture
def server():
    with ProviderServer(script) as running:
        yield running
        assert not running.errors


@pytest.fixture
def spoken(server):
    """How the OpenAI client is used here: no retries of its own."""
    with openai.OpenAI(base_url=server.base_url, api_key="test-key", max_retries=0) as client:
        yield client.chat.completions


@pytest.fixture
def claude(server):
    root = server.base_url.removesuffix("/v1")
    with anthropic.Anthropic(base_url=root, api_key="test-key", max_retries=0) as client:
        yield client.messages


def ask(word: str) -> list:
    return [{"role": "user", "content": word}]


def test_the_openai_client_reads_an_answer_and_its_usage(server, spoken):
    got = spoken.create(model="scripted", messages=ASK)
    assert got.choices[0].message.content == "Four."
    assert got.choices[0].finish_reason == "stop"
    assert asdict(server.tally) == asdict(Tally(1, 1, got.usage.prompt_tokens, got.usage.completion_tokens))
    seen = server.requests[0]
    assert (seen.n, seen.api, seen.key, seen.messages) == (0, "openai", "test-key", ASK)


def test_the_openai_client_reads_a_stream_of_several_chunks_with_usage_last(server, spoken):
    chunks = list(
        spoken.create(model="scripted", messages=ask("exact"), stream=True, stream_options={"include_usage": True})
    )
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == LONG
    assert len(chunks) >= 10
    assert not chunks[-1].choices
    assert (chunks[-1].usage.prompt_tokens, chunks[-1].usage.completion_tokens) == (100, 7)
    assert chunks[-1].usage.prompt_tokens_details.cached_tokens == 60
    assert (server.tally.input_tokens, server.tally.output_tokens) == (100, 7)


def test_a_stream_reports_no_usage_unless_asked_but_is_billed_all_the_same(server, spoken):
    assert all(c.choices and not c.usage for c in spoken.create(model="scripted", messages=ask("exact"), stream=True))
    assert server.tally.output_tokens == 7


@pytest.mark.parametrize("stream", [False, True])
def test_the_openai_client_reads_two_tool_calls(spoken, stream):
    wanted = {"model": "scripted", "messages": ask("tool"), "tools": OPENAI_TOOLS}
    if stream:
        with spoken.stream(**wanted) as events:
            got = events.get_final_completion()
    else:
        got = spoken.create(**wanted)
    assert got.choices[0].finish_reason == "tool_calls"
    assert got.choices[0].message.content == "Let me look."
    called = [(c.function.name, json.loads(c.function.arguments)) for c in got.choices[0].message.tool_calls]
    assert called == [("read_file", {"path": "a b"}), ("read_file", {"path": "ü"})]


def test_the_anthropic_client_reads_an_answer_and_its_usage(server, claude):
    got = claude.create(model="scripted", max_tokens=500, system="You are brief.", messages=ask("exact"))
    assert got.content[0].text == LONG
    assert (got.usage.input_tokens, got.usage.cache_read_input_tokens, got.usage.output_tokens) == (40, 60, 7)
    assert got.stop_reason == "end_turn"
    assert asdict(server.tally) == asdict(Tally(1, 1, 100, 7))
    assert server.requests[0].messages == [{"role": "system", "content": "You are brief."}, *ask("exact")]


@pytest.mark.parametrize("stream", [False, True])
def test_the_anthropic_client_reads_two_tool_calls_and_sends_their_results_back(server, claude, stream):
    wanted = {"model": "scripted", "max_tokens": 500, "messages": ask("tool"), "tools": ANTHROPIC_TOOLS}
    if stream:
        with claude.stream(**wanted) as events:
            got = events.get_final_message()
    else:
        got = claude.create(**wanted)
    assert got.stop_reason == "tool_use"
    assert [block.type for block in got.content] == ["text", "tool_use", "tool_use"]
    assert [block.input for block in got.content[1:]] == [{"path": "a b"}, {"path": "ü"}]
    assert got.usage.output_tokens == server.tally.output_tokens
    results = [{"type": "tool_result", "tool_use_id": block.id, "content": "seen"} for block in got.content[1:]]
    claude.create(
        model="scripted",
        max_tokens=5,
        messages=[
            *ask("tool"),
            {"role": "assistant", "content": got.content},
            {"role": "user", "content": results},
        ],
    )
    told = server.requests[1].messages
    assert [message["role"] for message in told] == ["user", "assistant", "tool", "tool"]
    assert told[1]["tool_calls"][0]["function"] == {"name": "read_file", "arguments": '{"path": "a b"}'}
    assert told[2] == {"role": "tool", "tool_call_id": "toolu_0_0", "content": "seen"}


def test_an_answer_beyond_max_tokens_is_cut(spoken, claude):
    for got in (
        spoken.create(model="scripted", messages=ask("long"), max_tokens=10).choices[0].finish_reason,
        spoken.create(model="scripted", messages=ask("length")).choices[0].finish_reason,
    ):
        assert got == "length"
    cut = claude.create(model="scripted", messages=ask("long"), max_tokens=10)
    assert cut.stop_reason == "max_tokens"
    assert cut.usage.output_tokens <= 10


def test_models_are_listed_in_both_shapes(server):
    with openai.OpenAI(base_url=server.base_url, api_key="test-key") as client:
        assert [model.id for model in client.models.list()] == ["scripted"]
        with pytest.raises(openai.NotFoundError):
            client.models.retrieve("other")
    with anthropic.Anthropic(base_url=server.base_url.removesuffix("/v1"), api_key="test-key") as client:
        assert [model.id for model in client.models.list()] == ["scripted"]
        assert client.models.retrieve("scripted").display_name == "scripted"


def test_a_wrong_key_and_an_unknown_model_are_refused_and_counted_as_calls(server, spoken, claude):
    for client, kind in ((spoken, openai), (claude, anthropic)):
        with pytest.raises(kind.NotFoundError, match="does not exist"):
            client.create(model="other", messages=ASK[1:], max_tokens=5)
    with openai.OpenAI(base_url=server.base_url, api_key="wrong", max_retries=0) as client:
        with pytest.raises(openai.AuthenticationError, match="Incorrect API key"):
            client.chat.completions.create(model="scripted", messages=ASK)
    assert (server.tally.calls, server.tally.answered) == (3, 0)


def test_a_status_carries_its_headers_and_message(spoken, claude):
    for client, kind in ((spoken, openai), (claude, anthropic)):
        with pytest.raises(kind.RateLimitError, match="slow down") as raised:
            client.create(model="scripted", messages=ask("slow"), max_tokens=5)
        assert raised.value.response.headers["retry-after"] == "3"


@pytest.mark.parametrize("word", ["reset", "hang"])
@pytest.mark.parametrize("stream", [False, True])
def test_a_reset_is_a_connection_error(server, spoken, claude, word, stream):
    for client, kind in ((spoken, openai), (claude, anthropic)):
        with pytest.raises(kind.APIConnectionError):
            list(client.create(model="scripted", messages=ask(word), max_tokens=5, stream=stream))
    assert (server.tally.calls, server.tally.answered) == (2, 0)


def test_a_reset_in_the_middle_of_a_stream_comes_after_some_text(spoken):
    seen = []
    with pytest.raises(httpx.ReadError):
        for chunk in spoken.create(model="scripted", messages=ask("midway"), stream=True):
            seen.append(chunk.choices[0].delta.content)
    assert "".join(seen) == "so far so far "


@pytest.mark.parametrize("word", ["truncated", "malformed"])
@pytest.mark.parametrize("stream", [False, True])
def test_json_that_is_cut_or_wrong_arrives_as_such(server, word, stream):
    body = {"model": "scripted", "messages": ask(word), "stream": stream}
    got = httpx.post(f"{server.base_url}/chat/completions", json=body, headers={"authorization": "Bearer test-key"})
    assert got.status_code == 200
    with pytest.raises(ValueError):
        json.loads(got.text.rstrip().rpartition("data: ")[2])
    assert "[DONE]" not in got.text
    assert server.tally.answered == 0


@pytest.mark.parametrize("stream", [False, True])
def test_an_endless_answer_goes_on_until_the_client_leaves(server, stream):
    body = {"model": "scripted", "messages": ask("endless"), "stream": stream}
    read = 0
    with httpx.stream(
        "POST", f"{server.base_url}/chat/completions", json=body, headers={"authorization": "Bearer test-key"}
    ) as got:
        for part in got.iter_raw():
            read += len(part)
            if read > 50_000:
                break
    assert server.tally.answered == 0


@pytest.mark.parametrize("stream", [False, True])
def test_a_huge_answer_is_well_formed(spoken, stream):
    got = spoken.create(model="scripted", messages=ask("huge"), stream=stream)
    texts = (chunk.choices[0].delta.content or "" for chunk in got) if stream else [got.choices[0].message.content]
    assert sum(map(len, texts)) == 3 << 20


def test_a_client_that_left_was_not_answered(server):
    with openai.OpenAI(base_url=server.base_url, api_key="test-key", max_retries=0, timeout=0.1) as client:
        with pytest.raises(openai.APITimeoutError):
            client.chat.completions.create(model="scripted", messages=ask("late"))
    time.sleep(0.4)
    assert (server.tally.calls, server.tally.answered, server.tally.input_tokens) == (1, 0, 0)


def test_a_closed_server_refuses_connections_and_can_come_back_at_its_port(server):
    server.close()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", server.port), 1)
    with ProviderServer(script, port=server.port) as again:
        assert again.base_url == server.base_url
        assert httpx.get(f"{again.base_url}/models", headers={"authorization": "Bearer test-key"}).status_code == 200


def test_every_call_of_64_clients_is_counted_once(server):
    body = json.dumps({"model": "scripted", "messages": ask("exact")}).encode()

    def call(_: int) -> int:
        request = urllib.request.Request(
            f"{server.base_url}/chat/completions", body, {"authorization": "Bearer test-key"}
        )
        with urllib.request.urlopen(request) as got:
            return json.load(got)["usage"]["prompt_tokens"]

    with ThreadPoolExecutor(64) as pool:
        assert set(pool.map(call, range(500))) == {100}
    assert asdict(server.tally) == asdict(Tally(500, 500, 50_000, 3_500))
    assert sorted(request.n for request in server.requests) == list(range(500))


def test_a_process_of_its_own_says_its_address_and_its_tally(tmp_path):
    script = tmp_path / "say.py"
    script.write_text(
        "from tests.provider import Answer\n"
        "def yes(request):\n"
        "    return Answer('yes', input_tokens=3, output_tokens=2)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.provider", f"{script}:yes"],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin and process.stdout
    url = process.stdout.readline().strip()
    with openai.OpenAI(base_url=url, api_key="test-key") as client:
        assert client.chat.completions.create(model="scripted", messages=ASK).choices[0].message.content == "yes"
    tally = httpx.get(url.replace("/v1", "/tally")).json()
    assert tally == {"calls": 1, "answered": 1, "input_tokens": 3, "output_tokens": 2}
    process.stdin.close()
    assert process.wait(10) == 0
