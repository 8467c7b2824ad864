"""A run with a real llama.cpp server (tests/engines/llamacpp.sh) as provider=custom, with 1,024 tokens a request."""

import json
import os
import urllib.request

import pytest

from tests.scripts import parity

URL = os.environ.get("SIA_LLAMACPP_URL", "")
pytestmark = [
    pytest.mark.timeout(300),
    pytest.mark.skipif(not URL, reason="no llama.cpp server: tests/engines/llamacpp.sh up"),
]
PROVIDER = ["provider=custom", f"provider.base_url={URL}", "provider.model=smollm2", "provider.concurrency=2"]
TOO_LONG = "25"  # a question of the selection, by its name in the harness's view


def server(path, **body):
    """What the server itself says, past the gateway."""
    request = urllib.request.Request(URL.removesuffix("/v1") + path, json.dumps(body).encode())
    with urllib.request.urlopen(request) as answer:
        return json.load(answer)


def harness(*, stream: bool, too_long: str = "") -> str:
    """One that asks for one line, and makes the prompt of one question too long."""
    return f"""import argparse, csv, json, os, urllib.error, urllib.request
from pathlib import Path

URL = os.environ["OPENAI_BASE_URL"] + "/chat/completions"
HEADERS = {{"authorization": "Bearer " + os.environ["OPENAI_API_KEY"], "content-type": "application/json"}}


def ask(row):
    question = row["question"] + (" word" * 4000 if row["id"] == {too_long!r} else "")
    body = {{"model": os.environ["SIA_MODEL"], "user": row["id"], "messages": [{{"role": "user", "content": question}}],
            "temperature": 0, "max_tokens": 40, "stop": ["even", "odd"], "stream": {stream}}}
    with urllib.request.urlopen(urllib.request.Request(URL, json.dumps(body).encode(), HEADERS)) as got:
        if not body["stream"]:
            return json.load(got)["choices"][0]["message"]["content"]
        events = [line[6:] for line in got.read().decode().splitlines() if line.startswith("data: {{")]
    return "".join(choice["delta"].get("content") or "" for event in events for choice in json.loads(event)["choices"])


parser = argparse.ArgumentParser()
parser.add_argument("--dataset_dir", type=Path)
parser.add_argument("--working_dir", type=Path)
args = parser.parse_args()
answers = {{}}
with (args.dataset_dir / "questions.csv").open(newline="") as stream:
    for row in csv.DictReader(stream):
        try:
            answers[row["id"]] = "even" if len(ask(row)) % 2 == 0 else "odd"
        except urllib.error.HTTPError:
            pass
with (args.working_dir / "submission.csv").open("w", newline="") as stream:
    csv.writer(stream).writerows([("id", "answer"), *answers.items()])
"""


def calls_of(generation) -> dict[str, dict]:
    lines = (generation / "trajectories.jsonl").read_text().splitlines()
    return {call["question"]: call for call in map(json.loads, lines)}


def test_answers_are_read_whole_and_streamed_and_a_prompt_that_is_too_long_is_told(cli, tmp_path):
    programs = [harness(stream=False), harness(stream=True), harness(stream=True, too_long=TOO_LONG)]
    at = [*PROVIDER, f"hydra.run.dir={cli.run}"]
    done = cli(*parity.make(tmp_path, max_tokens=0), *cli.replay(*programs), *at, timeout=280)
    assert done.returncode == 0, done.stdout + done.stderr
    whole, streamed, long = (calls_of(cli.run / f"gen_{number}") for number in (1, 2, 3))
    assert len(whole) == 13 and whole.keys() == streamed.keys() == long.keys()
    for question, call in whole.items():
        prompt = server("/apply-template", messages=call["request"]["messages"])["prompt"]
        tokens = len(server("/tokenize", content=prompt, add_special=True, parse_special=True)["tokens"])
        for each in (call, streamed[question]):
            assert each["error"] is None and each["attempts"] == 1
            assert (each["finish_reason"], each["model"]) == ("stop", "smollm2")
            usage, text = each["usage"], each["response"]["text"]
            assert usage["input"] == tokens and 0 < usage["output"] <= 40 and not usage["estimated"]
            assert text and not {"even", "odd"} & set(text.split())
    refused = long.pop(TOO_LONG)["error"]
    assert refused["kind"] == "bad_request" and "exceeds the available context size (1024 tokens)" in refused["message"]
    assert not any(call["error"] for call in long.values())
    outcomes = json.loads((cli.run / "gen_3" / "faults.json").read_text())
    assert outcomes["questions"] == {TOO_LONG: "no_answer"} and "context size" in outcomes["words"]["no_answer"]
