"""The command `transfer`: the final harness with another model or on another task, tested once."""

import json
import os
import re
import shutil
import subprocess
import sys

import pytest

from tests.conftest import ROOT
from tests.harnesses import ASK, HEAD, MAJORITY, WORDS
from tests.provider import Answer, ProviderServer
from tests.scripts.serving import KEY, use

# answers with what the model says of the first question, for all of them
OBEDIENT = HEAD + ASK + "reply = ask('which label?', asked[0]['id'])\nanswer([(q['id'], reply) for q in asked])\n"


def transfer(cli, *args):
    command = [sys.executable, "-m", "sia_runner", "transfer", str(cli.run), *args]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, **KEY})
    return done.returncode, done.stdout + done.stderr


def journal(folder):
    return [json.loads(line) for line in (folder / "journal.jsonl").read_text().splitlines()]


@pytest.fixture
def server():
    with ProviderServer(lambda request: Answer(request.model), models=("neutral", "positive")) as running:
        yield running


@pytest.mark.slow
def test_with_another_model_it_is_tested_once_and_what_the_provider_refuses_is_not_recorded(cli, server, tmp_path):
    overrides = [*use(server.base_url, model="neutral"), "target_agent=model", "max_gen=2"]
    done = cli(*overrides, *cli.replay(OBEDIENT, OBEDIENT.replace("answer([", "x = 1\nanswer([")), env=KEY)
    assert done.returncode == 0, done.stdout + done.stderr
    best = cli.summary["best"]["generation"]
    calls = server.tally.calls
    code, said = transfer(cli, "provider.model=positive")
    assert code == 0 and "provider custom/positive" in said and "tested once" in said, said
    (folder,) = (cli.run / "transfers").iterdir()
    assert server.tally.calls == calls + 1
    (result,) = [entry["result"] for entry in journal(folder) if entry["event"] == "done"]
    assert result["generation"] == best and f"{result['score']['value']:.3f}" in said
    assert result["score"] != cli.summary["best"]["test"], "the other model answers otherwise"
    code, again = transfer(cli, "provider.model=positive")
    assert (code, server.tally.calls) == (0, calls + 1) and again.splitlines()[-1] == said.splitlines()[-1]
    before = (cli.run / "journal.jsonl").read_bytes()
    command = [sys.executable, "-m", "sia_runner", "verify", str(cli.run)]
    verified = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (
        verified.returncode == 0 and "transfer to task smoke, provider custom/positive: test of gen_" in verified.stdout
    )
    report = [sys.executable, "-m", "sia_runner", "report", str(cli.run), f"out={tmp_path / 'report.html'}"]
    assert subprocess.run(report, check=False, capture_output=True).returncode == 0
    assert "→ task smoke, provider custom/positive" in (tmp_path / "report.html").read_text()
    assert "outside of all arms" in (tmp_path / "report.md").read_text()
    assert (cli.run / "journal.jsonl").read_bytes() == before, "a transfer is none of the run's own steps"
    code, failed = transfer(cli, "provider.model=absent")
    assert code == 2 and "absent" in failed, failed
    others = [path for path in (cli.run / "transfers").iterdir() if path != folder]
    assert not any(entry["event"] == "done" for path in others for entry in journal(path))
    submission = folder / "test" / f"gen_{best}" / "submission" / "submission.csv"
    submission.chmod(0o644)
    submission.write_text("id,label\n")
    broken = subprocess.run(command, capture_output=True, text=True, check=False)
    assert broken.returncode == 1 and re.search("FAULT transfer to .*changed since", broken.stdout)
    (folder / "lock.json").write_text("{}")
    broken = subprocess.run(command, capture_output=True, text=True, check=False)
    assert broken.returncode == 1 and re.search("FAULT transfer to .*lock.json: changed since", broken.stdout)


@pytest.mark.slow
def test_on_another_task_of_the_same_layout_with_the_gain_over_the_first_harness(cli):
    done = cli("task=smoke", *cli.replay(MAJORITY, WORDS), "max_gen=2")
    assert done.returncode == 0, done.stdout + done.stderr
    conf = cli.folder / "conf" / "task"
    conf.mkdir(parents=True)
    other = (ROOT / "conf" / "task" / "smoke.yaml").read_text()
    assert "name: smoke" in other
    folder = cli.folder / "others"
    shutil.copytree(ROOT / "tasks" / "smoke", folder)
    (conf / "others.yaml").write_text(other.replace("name: smoke", f"name: others\ndir: {folder}"))
    code, said = transfer(cli, "task=others", "--config-dir", str(cli.folder / "conf"))
    assert code == 0 and "task others, no model" in said, said
    assert re.search(r"\+0\.\d+ ± 0\.\d+ on the same questions", said)
    for args, why in (
        (["task=smoke"], "task and model are those of the run"),
        (["provider=ollama"], "no harness of the run called a model"),
        (["task=denoising"], "has another layout: task.submission is"),
        (["max_gen=3"], "nothing that a transfer can change"),
        (["task=smok"], "smoke"),
    ):
        code, said = transfer(cli, *args)
        assert code == 2 and why in said, (args, said)
