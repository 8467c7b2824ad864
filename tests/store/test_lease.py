"""One writer per run directory: on this machine, across nodes, and after any death."""

import errno
import json
import os
import subprocess
import sys
import time

import pytest

from sia_runner.store import lease as lease_module
from sia_runner.store.lease import LeaseHeldError, RunLease, process_identity

HOLD = """
import sys, time, pathlib
from sia_runner.store.lease import RunLease
with RunLease(pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""
RACE = """
import sys, time, pathlib
from sia_runner.store.lease import RunLease, LeaseHeldError
try:
    with RunLease(pathlib.Path(sys.argv[1])):
        print("won", flush=True)
        time.sleep(1.5)
except LeaseHeldError as error:
    print("lost", flush=True)
"""


def spawn(program, folder):
    return subprocess.Popen([sys.executable, "-c", program, str(folder)], stdout=subprocess.PIPE, text=True)


@pytest.fixture
def holder(tmp_path):
    process = spawn(HOLD, tmp_path)
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()


def test_a_second_process_is_refused_and_told_who_holds_it(tmp_path, holder):
    with pytest.raises(LeaseHeldError, match=f"process {holder.pid} on "):
        RunLease(tmp_path).__enter__()


def test_the_lease_of_a_killed_process_is_taken_over_at_once(tmp_path, holder):
    holder.kill()
    holder.wait()
    with RunLease(tmp_path) as lease:
        lease.check()
    assert list(tmp_path.iterdir()) == []


def test_a_live_process_with_the_same_number_but_another_start_does_not_hold_it(tmp_path):
    with RunLease(tmp_path):
        pass
    other = process_identity() | {"pid": os.getppid(), "started": "1", "nonce": "old"}
    (tmp_path / "lease.json").write_text(json.dumps(other))
    with RunLease(tmp_path) as lease:
        lease.check()


def test_a_lease_of_another_node_holds_while_it_is_touched_and_not_after(tmp_path):
    path = tmp_path / "lease.json"
    path.write_text(json.dumps(process_identity() | {"host": "node17", "job": "4242", "nonce": "far"}))
    with pytest.raises(LeaseHeldError, match="on node17, job 4242"):
        RunLease(tmp_path).__enter__()
    long_ago = time.time() - lease_module.STALE_AFTER - 5
    os.utime(path, (long_ago, long_ago))
    with RunLease(tmp_path) as lease:
        lease.check()


def test_of_many_that_take_over_a_dead_lease_exactly_one_wins(tmp_path, holder):
    holder.kill()
    holder.wait()
    racers = [spawn(RACE, tmp_path) for _ in range(6)]
    outputs = [racer.communicate(timeout=30)[0].strip() for racer in racers]
    assert sorted(outputs) == ["lost"] * 5 + ["won"]


def test_who_lost_the_lease_is_stopped_before_it_writes(tmp_path):
    with RunLease(tmp_path) as lease:
        (tmp_path / "lease.json").write_text(json.dumps(process_identity() | {"host": "node3", "nonce": "new"}))
        with pytest.raises(LeaseHeldError, match="lost"):
            lease.check()
    assert "node3" in (tmp_path / "lease.json").read_text()


def test_the_heartbeat_touches_the_file(tmp_path, monkeypatch):
    monkeypatch.setattr(lease_module, "HEARTBEAT", 0.05)
    with RunLease(tmp_path):
        path = tmp_path / "lease.json"
        os.utime(path, (1, 1))
        deadline = time.monotonic() + 5
        while path.stat().st_mtime < 2 and time.monotonic() < deadline:
            time.sleep(0.05)
        assert path.stat().st_mtime > 2


def test_without_hard_links_there_is_one_holder_too(tmp_path, monkeypatch):
    def no_links(*_):
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(lease_module.os, "link", no_links)
    with RunLease(tmp_path) as lease:
        lease.check()
        with pytest.raises(LeaseHeldError, match=f"process {os.getpid()} on "):
            RunLease(tmp_path).__enter__()
    assert list(tmp_path.iterdir()) == []
