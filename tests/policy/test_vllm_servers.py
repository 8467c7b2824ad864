"""The servers that a run starts itself, with a program in the place of vLLM (tests/policy/vllm_program.py).

With vLLM itself: tests/e2e/test_weights_vllm.py.
"""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from itertools import pairwise

import psutil
import pytest

from sia_runner.config.training import PolicyConfig
from sia_runner.policy.vllm_servers import ManagedServers
from sia_runner.wire.failures import CallError
from sia_runner.wire.policy import PolicyError
from tests.conftest import ROOT

PROGRAM = ROOT / "tests" / "policy" / "vllm_program.py"


class Managed:
    """Servers of a test, with the folder in which their programs leave what they saw."""

    def __init__(self, folder, **settings):
        self.folder, self.lines = folder / "noted", []
        self.folder.mkdir(parents=True)
        changes = {"servers": 2, "command": [sys.executable, str(PROGRAM)], "args": ["--folder", str(self.folder)]}
        spec = PolicyConfig(base="a/base", backend="vllm", vllm=changes | settings)
        self.servers = ManagedServers(spec, 24, folder / "logs", self.lines.append)

    def programs(self):
        """The programs that run, as (process, what it noted), the oldest first."""
        noted = [(int(path.stem), json.loads(path.read_text())) for path in self.folder.glob("*.json")]
        alive = [(psutil.Process(pid), content) for pid, content in noted if runs(pid)]
        return sorted(alive, key=lambda one: one[0].create_time())

    def requests(self, path):
        """The requests that each program got, by process."""
        logs = {int(log.stem): log.read_text().splitlines() for log in self.folder.glob("*.log")}
        return {pid: [line for line in lines if line.startswith(path)] for pid, lines in logs.items()}

    def ask(self, model="a/base"):
        return self.servers.complete(model, "", [1, 2], 30.0, max_tokens=1)

    def left(self):
        """Processes of the servers that still run, their engines included."""
        noted = [json.loads(path.read_text())["engine"] for path in self.folder.glob("*.json")]
        return [pid for pid in [*noted, *(int(path.stem) for path in self.folder.glob("*.json"))] if runs(pid)]


def runs(pid):
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def wait_until(true, seconds=20):
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.fixture(autouse=True)
def no_cards(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")


@pytest.fixture
def managed(tmp_path):
    made = []

    def make(**settings):
        made.append(Managed(tmp_path / str(len(made)), **settings))
        return made[-1]

    yield make
    for one in made:
        one.servers.close()
        assert not one.left()


def adapter(tmp_path):
    (tmp_path / "adapter").mkdir()
    return tmp_path / "adapter"


def test_requests_are_spread_and_adapters_are_at_every_server(managed, tmp_path):
    two = managed()
    two.servers.start()
    two.servers.load("one", adapter(tmp_path))
    for _ in range(4):
        assert two.ask("one") == ((1,), (-1.0,), "stop")
    assert sorted(map(len, two.requests("/v1/completions").values())) == [2, 2]
    two.servers.unload("one")
    with pytest.raises(CallError, match="no model one"):
        two.ask("one")
    assert {len(lines) for lines in two.requests("/v1/unload_lora_adapter").values()} == {1}
    assert two.servers.context("a/base", 5.0) == 96
    two.servers.close()
    assert not two.left() and two.lines == []


def test_each_gets_the_options_that_a_policy_needs_and_cards_of_its_own(managed, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2,GPU-7,5")
    monkeypatch.setenv("RANK", "0")  # of a learner's group, which is none of vLLM's
    two = managed(tensor_parallel=2)
    two.servers.start()
    noted = [content for _, content in two.programs()]
    assert {content["cards"] for content in noted} == {"1,2", "GPU-7,5"} and {one["rank"] for one in noted} == {None}
    given = noted[0]["arguments"]
    assert given[0] == "a/base" and given[-2] == "--folder", "the user's options come last, where they win"
    after = dict(pairwise(given))
    assert after["--max-lora-rank"] == "32" and after["--tensor-parallel-size"] == "2" and "--enable-lora" in given
    assert after["--logprobs-mode"] == "processed_logprobs" and after["--served-model-name"] == "a/base"


def test_too_few_cards_are_refused_before_anything_starts(managed, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2")
    two = managed(tensor_parallel=2)
    with pytest.raises(PolicyError, match="need 4 GPUs; this machine shows 3"):
        two.servers.start()
    assert not list(two.folder.iterdir())


@pytest.mark.parametrize(("beside", "says"), [("", "0 beside those that train"), ("3", "1 beside those that train")])
def test_cards_that_train_are_not_the_servers(beside, says, managed, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    monkeypatch.setenv("SIA_SERVER_CARDS", beside)
    with pytest.raises(PolicyError, match=says):
        managed().servers.start()


def test_what_a_killed_server_was_asked_another_answers_and_it_is_started_again(managed, tmp_path):
    two = managed()
    two.servers.start()
    two.servers.load("one", adapter(tmp_path))
    (two.folder / "wait").touch()
    answers = []
    threads = [threading.Thread(target=lambda: answers.append(two.ask("one"))) for _ in range(4)]
    for thread in threads:
        thread.start()
    wait_until(lambda: sum(map(len, two.requests("/v1/completions").values())) == 4)
    killed = two.programs()[0][0]
    killed.kill()
    (two.folder / "wait").unlink()
    for thread in threads:
        thread.join(20)
    assert answers == [((1,), (-1.0,), "stop")] * 4
    wait_until(lambda: len(two.lines) == 2)
    assert "ended (exit code 137)" in two.lines[0] and "1 of 3 times" in two.lines[0] and "again" in two.lines[1]
    new = two.programs()[-1][0].pid
    assert two.requests("/v1/load_lora_adapter")[new] == ["/v1/load_lora_adapter one"], "before it is asked"
    for _ in range(4):
        two.ask("one")
    assert two.requests("/v1/completions")[new], "it is asked again"


def test_a_server_that_ends_too_often_is_given_up_and_the_run_ends_with_the_last_one(managed):
    two = managed(restarts=1)
    two.servers.start()
    first = two.servers._servers[0]
    for restarts in range(2):
        wait_until(lambda: first.up)
        os.kill(_server_of(two, first), signal.SIGKILL)
        wait_until(lambda count=restarts: len(two.lines) > 2 * count)
    wait_until(lambda: first.failure)
    assert two.ask()[2] == "stop", "the other one goes on"
    (two.folder / "broken").touch()
    os.kill(_server_of(two, two.servers._servers[1]), signal.SIGKILL)
    with pytest.raises(CallError, match="vLLM server 1 ended") as failed:
        two.ask()
    assert failed.value.final and "\n" not in str(failed.value)


def _server_of(two, server):
    (child,) = psutil.Process(server.guard.pid).children()
    return child.pid


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        ("broken", r"vLLM server \d ended \(exit code 1\): ValueError: No available memory for the cache blocks"),
        ("slow", r"vLLM server \d did not answer within 1 s \(target_agent\.policy\.vllm\.startup\): .*\.log\)"),
    ],
)
def test_a_server_that_does_not_come_up_is_one_line_with_the_cause_from_its_log(managed, fault, says):
    two = managed(startup=1.0)
    (two.folder / fault).touch()
    with pytest.raises(PolicyError, match=says) as refused:
        two.servers.start()
    assert "\n" not in str(refused.value) and not two.left()
    with pytest.raises(PolicyError, match=says):
        two.servers.start()


def test_a_program_that_is_not_there_is_named(managed):
    one = managed(servers=1, command=["/nowhere/vllm"])
    with pytest.raises(PolicyError, match=r"exit code 127.*/nowhere/vllm: No such file"):
        one.servers.start()


def test_the_end_of_the_run_does_not_wait_for_servers_that_are_starting(managed):
    two = managed()
    (two.folder / "slow").touch()
    refused = []

    def start():
        try:
            two.servers.start()
        except PolicyError as error:
            refused.append(str(error))

    thread = threading.Thread(target=start)
    thread.start()
    wait_until(lambda: len(two.programs()) == 2)
    began = time.monotonic()
    two.servers.close()
    thread.join(5)
    assert time.monotonic() - began < 4 and not two.left() and "ended while they started" in refused[0]


def test_servers_and_engines_that_ignore_sigterm_are_killed(managed):
    one = managed(servers=1)
    (one.folder / "stubborn").touch()
    one.servers.start()
    assert len(one.left()) == 2
    one.servers.close()
    assert not one.left()


def test_a_killed_guard_takes_its_server_along_and_both_are_started_again(managed):
    one = managed(servers=1)
    one.servers.start()
    os.kill(one.servers._servers[0].guard.pid, signal.SIGKILL)
    wait_until(lambda: len(one.lines) == 2)
    assert len(one.programs()) == 1 and one.ask()[2] == "stop"
    for path in one.folder.glob("*.json"):  # an engine in a session of its own is what nobody else could end
        engine = json.loads(path.read_text())["engine"]
        if int(path.stem) != one.programs()[0][0].pid and runs(engine):
            os.kill(engine, signal.SIGKILL)


STARTER = """
import sys, time
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from tests.policy.test_vllm_servers import Managed
managed = Managed(Path(sys.argv[2]))
managed.servers.start()
print("up", flush=True)
time.sleep(600)
"""


def test_nothing_is_left_of_a_runner_that_was_killed(tmp_path):
    command = [sys.executable, "-c", STARTER, str(ROOT), str(tmp_path / "run")]
    runner = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert runner.stdout.readline() == b"up\n"
    noted = [json.loads(path.read_text()) for path in (tmp_path / "run" / "noted").glob("*.json")]
    pids = [int(path.stem) for path in (tmp_path / "run" / "noted").glob("*.json")] + [one["engine"] for one in noted]
    assert len(pids) == 4 and all(map(runs, pids))
    runner.kill()
    runner.communicate()
    wait_until(lambda: not any(map(runs, pids)), 10)
