"""The servers that all stages of a run share, with a program in the place of vLLM (tests/policy/vllm_program.py)."""

import pickle
import signal
import stat
import subprocess
import sys
import threading
import time

import pytest

from sia_runner.config.training import PolicyConfig
from sia_runner.policy.shared_servers import (
    ENDED,
    Addresses,
    KeptServers,
    ServersJob,
    SharedServers,
    addresses_file,
    read_addresses,
    write_addresses,
    write_ticket,
)
from sia_runner.store.lease import RunLease
from sia_runner.wire.failures import CallError
from sia_runner.wire.policy import PolicyError
from tests.conftest import ROOT
from tests.policy.test_vllm_servers import PROGRAM, Managed, adapter, wait_until


class Kept(Managed):
    """Shared servers of a test; `client()` is one stage's."""

    def __init__(self, folder, **settings):
        self.run = folder / "run"
        self.folder, self.lines, self.shared = folder / "noted", [], self.run / "servers"
        self.folder.mkdir(parents=True)
        command = {"servers": 2, "command": [sys.executable, str(PROGRAM)], "args": ["--folder", str(self.folder)]}
        self.spec = PolicyConfig(base="a/base", backend="vllm", vllm=command | settings)
        self.servers = KeptServers(self.spec, 24, self.shared, self.lines.append)

    def start(self):
        self.servers.start()
        wait_until(lambda: len(read_addresses(self.shared).servers) == self.spec.vllm.servers or self.servers.failure)
        return self

    def client(self, startup=20.0):
        return SharedServers(self.shared, startup)

    def close(self):
        self.servers.close(ENDED)
        wait_until(lambda: not self.left(), 10)


@pytest.fixture(autouse=True)
def no_cards(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")


@pytest.fixture
def kept(tmp_path):
    made = []

    def make(**settings):
        made.append(Kept(tmp_path / str(len(made)), **settings))
        return made[-1]

    yield make
    for one in made:
        one.close()


def ask(client, model="a/base"):
    return client.complete(model, "", [1, 2], 30.0, max_tokens=1)


ANSWER = ((1,), (-1.0,), "stop")


def test_stages_share_servers_and_an_adapter_that_another_stage_unloaded_is_loaded_again(kept, tmp_path):
    two = kept().start()
    one, other = two.client(), two.client()
    folder = adapter(tmp_path)
    for client in (one, other):
        client.start()
        client.load("adapter", folder)
    assert [ask(one, "adapter") for _ in range(4)] == [ANSWER] * 4
    assert sorted(map(len, two.requests("/v1/completions").values())) == [2, 2]
    one.unload("adapter")
    assert [ask(other, "adapter") for _ in range(2)] == [ANSWER] * 2
    with pytest.raises(CallError, match="no model never"):
        ask(other, "never")
    assert one.interruptions == other.interruptions == 0 and two.lines == []


def test_only_the_user_reads_the_key_and_no_file_has_it_after_the_end(kept):
    one = kept(servers=1).start()
    file, key = addresses_file(one.shared), read_addresses(one.shared).key
    assert stat.S_IMODE(file.stat().st_mode) == 0o600 and len(key) == 32
    one.servers.close(ENDED)
    assert not any(key in path.read_text() for path in one.run.rglob("*") if path.is_file())
    assert read_addresses(one.shared).failure == ENDED


def test_a_killed_server_comes_up_elsewhere_and_a_request_waits_for_it(kept, tmp_path):
    one = kept(servers=1).start()
    client = one.client()
    client.load("adapter", adapter(tmp_path))
    before = read_addresses(one.shared).servers
    (one.folder / "wait").touch()
    answers = []
    threads = [threading.Thread(target=lambda: answers.append(ask(client, "adapter"))) for _ in range(3)]
    for thread in threads:
        thread.start()
    wait_until(lambda: sum(map(len, one.requests("/v1/completions").values())) == 3)
    one.programs()[0][0].kill()
    (one.folder / "wait").unlink()
    for thread in threads:
        thread.join(20)
    assert answers == [ANSWER] * 3 and client.interruptions
    after = read_addresses(one.shared)
    assert before.keys().isdisjoint(after.servers) and set(before.values()) != set(after.servers.values())
    wait_until(lambda: len(one.lines) == 2)
    assert "ended (exit code 137)" in one.lines[0] and list(read_addresses(one.shared).lines) == one.lines


def test_servers_that_are_gone_for_good_are_one_line_at_the_start_and_end_the_run_later(kept):
    broken = kept(servers=1)
    (broken.folder / "broken").touch()
    broken.start()
    with pytest.raises(PolicyError, match="ValueError: No available memory for the cache blocks") as refused:
        broken.client().start()
    assert "\n" not in str(refused.value)
    one = kept(servers=1, restarts=0).start()
    client = one.client()
    ask(client)
    one.programs()[0][0].kill()
    with pytest.raises(CallError, match="vLLM server 1 ended") as failed:
        ask(client)
    assert failed.value.kind == "down" and "\n" not in str(failed.value), "the run stops: no harness is to blame"


def test_nobody_waits_longer_than_configured_or_after_the_end(tmp_path):
    nowhere = SharedServers(tmp_path, 0.5)
    with pytest.raises(CallError, match=r"answered for 0\.5 s \(target_agent\.policy\.vllm\.startup\)"):
        ask(nowhere)
    waiting, failures = SharedServers(tmp_path, 60.0), []

    def wait():
        try:
            ask(waiting)
        except CallError as failed:
            failures.append(failed.final)

    thread = threading.Thread(target=wait)
    thread.start()
    waiting.close()
    thread.join(5)
    assert failures == [True]


KEEPER = """
import pickle, sys, time
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from tests.policy.test_shared_servers import Kept
kept = Kept.__new__(Kept)
kept.spec, kept.shared = pickle.loads(Path(sys.argv[2]).read_bytes())
from sia_runner.policy.shared_servers import KeptServers
KeptServers(kept.spec, 24, kept.shared, print).start()
time.sleep(600)
"""
CLIENT = """
import sys, time
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from sia_runner.policy.shared_servers import SharedServers
client = SharedServers(Path(sys.argv[2]), 20.0)
client.load("its", Path(sys.argv[3]))
client.complete("its", "", [1], 20.0)
print("answered", flush=True)
client.complete("its", "", [1], 20.0)
"""


def keeper(one):
    described = one.run / "spec.pkl"
    described.parent.mkdir(exist_ok=True)
    described.write_bytes(pickle.dumps((one.spec, one.shared)))
    return subprocess.Popen([sys.executable, "-c", KEEPER, str(ROOT), str(described)])


def test_a_killed_owner_takes_its_servers_along_and_requests_wait_for_the_next_owner(kept, tmp_path):
    one = kept(servers=1)
    first = keeper(one)
    wait_until(lambda: read_addresses(one.shared).servers)
    client = one.client()
    client.load("adapter", adapter(tmp_path))
    first.kill()
    first.wait()
    wait_until(lambda: not one.left())
    assert read_addresses(one.shared).servers, "nobody was there to take them out"
    answers = []
    thread = threading.Thread(target=lambda: answers.append(ask(client, "adapter")))
    thread.start()
    second = keeper(one)
    thread.join(20)
    second.kill()
    second.wait()
    wait_until(lambda: not one.left())
    assert answers == [ANSWER] and client.interruptions


def test_a_killed_stage_disturbs_nobody(kept, tmp_path):
    one = kept(servers=1).start()
    command = [sys.executable, "-c", CLIENT, str(ROOT), str(one.shared), str(adapter(tmp_path))]
    stage = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert stage.stdout.readline() == b"answered\n"
    stage.kill()
    stage.communicate()
    assert ask(one.client()) == ANSWER and one.lines == [] and len(one.programs()) == 1


def test_a_silent_server_is_asked_again_once_it_answers(kept):
    one = kept(servers=1).start()
    client = one.client()
    ask(client)
    program = one.programs()[0][0]
    (server,) = client._servers.values()
    server.silent = True
    program.suspend()
    thread = threading.Thread(target=ask, args=[client], daemon=True)
    thread.start()
    time.sleep(0.3)
    program.resume()
    thread.join(10)
    assert not thread.is_alive() and one.lines == []


JOB = """
import pickle, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from sia_runner.policy import shared_servers
shared_servers._ALONE, shared_servers._LEASE_LOOK = 0.5, 0.1
pickle.loads(Path(sys.argv[2]).read_bytes())()
"""


@pytest.fixture
def job(kept):
    """Starts the servers' job of a run as a process; its standard output is a pipe."""
    started = []

    def start(one, ticket="ticket"):
        described = one.run / "job.pkl"
        one.run.mkdir(exist_ok=True)
        described.write_bytes(pickle.dumps(ServersJob(one.spec, 24, one.run, one.shared, ticket)))
        command = [sys.executable, "-c", JOB, str(ROOT), str(described)]
        started.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
        return started[-1]

    yield start
    for process in started:
        process.terminate()
        process.wait()
        process.stdout.close()


def test_the_job_ends_when_it_is_told_to_and_stages_wait_for_the_next(kept, job):
    one = kept(servers=1)
    one.run.mkdir()
    with RunLease(one.run):
        write_ticket(one.shared, "ticket")
        process = job(one)
        client = one.client()
        client.start()
        assert ask(client) == ANSWER and not client.interruptions
        process.send_signal(signal.SIGTERM)
        assert process.wait(15) == 0 and not one.left()
        assert read_addresses(one.shared) == Addresses(read_addresses(one.shared).keeper)
        job(one)
        assert ask(client) == ANSWER and client.interruptions == 1


def test_the_job_ends_by_itself_when_no_process_has_the_run(kept, job):
    one = kept(servers=1)
    write_ticket(one.shared, "ticket")
    process = job(one)
    wait_until(lambda: read_addresses(one.shared).servers)
    assert process.wait(20) == 0 and not one.left() and read_addresses(one.shared).failure == ENDED


def test_a_job_whose_place_another_has_leaves_its_addresses_alone(kept, job):
    one = kept(servers=1)
    one.run.mkdir()
    with RunLease(one.run):
        write_ticket(one.shared, "ticket")
        process = job(one)
        wait_until(lambda: read_addresses(one.shared).servers)
        write_ticket(one.shared, "next")
        mine = Addresses("another", "key", {"a": "http://127.0.0.1:9/v1"})
        write_addresses(one.shared, mine)
        assert process.wait(15) == 0 and not one.left() and read_addresses(one.shared) == mine
        assert job(one).wait(15) == 0 and read_addresses(one.shared) == mine


def test_a_job_whose_servers_do_not_come_up_fails_with_the_cause(kept, job):
    one = kept(servers=1)
    one.run.mkdir()
    (one.folder / "broken").touch()
    with RunLease(one.run):
        write_ticket(one.shared, "ticket")
        process = job(one)
        assert process.wait(15) == 1 and "No available memory" in read_addresses(one.shared).failure
        assert "No available memory" in process.communicate()[0]


def test_addresses_that_were_taken_out_by_mistake_come_back(kept, job):
    one = kept(servers=1)
    one.run.mkdir()
    with RunLease(one.run):
        write_ticket(one.shared, "ticket")
        job(one)
        wait_until(lambda: read_addresses(one.shared).servers)
        write_addresses(one.shared, Addresses())
        assert ask(one.client()) == ANSWER
