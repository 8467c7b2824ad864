"""A sia-agent task folder whose reference agent uses the Anthropic SDK, from the environment alone, runs unmodified."""

import pytest

from tests.provider import ProviderServer
from tests.scripts import clerk
from tests.scripts.serving import KEY, use

pytest.importorskip("anthropic", reason="the agent of this task uses the Anthropic SDK: pip install anthropic")

# As the shared reference agent of the sia-agent package is written: client and model at module level, a tool loop that
# sends back what it got, content blocks and all.
AGENT = """
import argparse
import json
import subprocess

import anthropic

try:
    from dotenv import load_dotenv
    load_dotenv()
except ImportError:
    pass

client = anthropic.Anthropic()
MODEL = "claude-haiku-4-5-20251001"


def tool(name, description, **properties):
    schema = {"type": "object", "properties": properties, "required": list(properties)}
    return {"name": name, "description": description, "input_schema": schema}


TEXT = {"type": "string"}
TOOLS = [
    tool("write_file", "Write (overwrite) a file with the given content.", path=TEXT, content=TEXT),
    tool("read_file", "Read and return the contents of a file.", path=TEXT),
    tool("bash", "Run a bash command and return stdout + stderr.", command=TEXT),
]


def dispatch(name, inputs):
    if name == "write_file":
        with open(inputs["path"], "w", encoding="utf-8") as stream:
            stream.write(inputs["content"])
        return "Written."
    if name == "read_file":
        with open(inputs["path"], encoding="utf-8") as stream:
            return stream.read()
    done = subprocess.run(inputs["command"], shell=True, capture_output=True, text=True, timeout=30)
    return done.stdout.strip() or "(no output)"


def run_agent(task):
    messages = [{"role": "user", "content": task}]
    while True:
        response = call(model=MODEL, max_tokens=4096, tools=TOOLS, messages=messages)
        for block in response.content:
            if block.type == "text" and block.text.strip():
                print(f"Assistant: {block.text}")
        if response.stop_reason == "end_turn":
            return
        assert response.stop_reason == "tool_use", response.stop_reason
        messages.append({"role": "assistant", "content": response.content})
        results = []
        for block in response.content:
            if block.type == "tool_use":
                print(f"[Tool] {block.name}({json.dumps(block.input)})")
                result = dispatch(block.name, block.input)
                results.append({"type": "tool_result", "tool_use_id": block.id, "content": result})
        messages.append({"role": "user", "content": results})


<CALL>


parser = argparse.ArgumentParser()
parser.add_argument("--dataset_dir", required=True)
parser.add_argument("--working_dir", required=True)
args = parser.parse_args()
run_agent(f"Even or odd? Read {args.dataset_dir}/test.csv then Write {args.working_dir}/submission.csv as id,label")
"""

WHOLE = """def call(**request):
    return client.messages.create(**request)"""
STREAMED = """def call(**request):
    with client.messages.stream(**request) as stream:
        return stream.get_final_message()"""

EVALUATE = """
import argparse, csv, json
from pathlib import Path
TRUTH = Path(__file__).parent.parent.parent / "data/private/test.csv"
parser = argparse.ArgumentParser()
parser.add_argument("--gen-dir", type=Path)
folder = parser.parse_args().gen_dir
truth = {row["id"]: row["label"] for row in csv.DictReader(TRUTH.open())}
said = {row["id"]: row["label"] for row in csv.DictReader((folder / "submission.csv").open())}
right = sum(said.get(i) == label for i, label in truth.items())
(folder / "results.json").write_text(json.dumps({"accuracy": right / len(truth)}))
"""

GEMINI = """
import os
client = {"key": os.environ["GEMINI_API_KEY"]}
"""


@pytest.fixture
def folder(tmp_path):
    """``folder(agent text)``: twenty numbers, even or odd, laid out as the sia-agent package lays out its tasks."""

    def make(agent: str) -> str:
        task = tmp_path / "parity"
        for part in ("data/public", "data/private", "reference"):
            (task / part).mkdir(parents=True)
        rows = [(f"q{n}", n, "odd" if n % 2 else "even") for n in range(20)]
        (task / "data/public/task.md").write_text("Even or odd?\n")
        (task / "data/public/test.csv").write_text("id,text\n" + "".join(f"{i},{n}\n" for i, n, _ in rows))
        (task / "data/private/test.csv").write_text("id,label\n" + "".join(f"{i},{label}\n" for i, _, label in rows))
        (task / "data/public/evaluate.py").write_text(EVALUATE)
        (task / "reference/reference_target_agent.py").write_text(agent)
        return str(task)

    return make


def run(cli, server, task, api):
    overrides = ["task=custom", f"task.dir={task}", "max_gen=1", *use(server.base_url, api=api)]
    return cli(*overrides, env=KEY)


@pytest.mark.parametrize(
    ("api", "call"),
    [
        pytest.param("anthropic", WHOLE, id="anthropic-whole"),
        pytest.param("anthropic", STREAMED, id="anthropic-streamed", marks=pytest.mark.slow),
        pytest.param("openai", WHOLE, id="openai-whole", marks=pytest.mark.slow),
        pytest.param("openai", STREAMED, id="openai-streamed", marks=pytest.mark.slow),
    ],
)
def test_an_agent_on_the_anthropic_sdk_works_through_the_gateway_whatever_the_provider_speaks(cli, folder, api, call):
    task = folder(AGENT.replace("<CALL>", call))
    with ProviderServer(clerk.reply) as server:
        done = run(cli, server, task, api)
    assert done.returncode == 0, done.stdout + done.stderr
    assert not server.errors
    assert cli.summary["best"]["val"]["value"] == 1.0
    assert {request.api for request in server.requests} == {api}
    assert {request.model for request in server.requests} == {"scripted"}  # not the one the agent names
    assert {request.key for request in server.requests} == {"test-key"}
    usage = cli.summary["usage"]
    assert usage["calls"] == server.tally.calls == server.tally.answered
    assert usage["tokens"] == server.tally.input_tokens + server.tally.output_tokens


def test_an_agent_that_needs_another_clouds_key_says_so_in_one_line(cli, folder):
    with ProviderServer(clerk.reply) as server:
        done = run(cli, server, folder(GEMINI), "openai")
    assert done.returncode == 3, done.stdout + done.stderr
    (generation,) = cli.summary["generations"]
    assert "needs GEMINI_API_KEY: no key of another cloud is in the sandbox" in generation["reason"]
    assert "the gateway speaks OPENAI and ANTHROPIC" in generation["reason"]
    assert "\n" not in generation["reason"]
