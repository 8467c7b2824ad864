"""The relay carries bytes, whatever they are and however they come, in constant memory."""

import contextlib
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

_PROGRAM = """
import sys; sys.path.insert(0, sys.argv[1])
from sia_runner.sandbox import relay
from sia_runner.sandbox.relay import Relay
listener = relay._listen(0)
print(listener.getsockname()[1], flush=True)
Relay(listener, sys.argv[2]).serve()
"""
_PACKAGES = Path(__file__).resolve().parents[2]
MIB = 1 << 20


class Line:
    """One connection: the client's end, the gateway's end, and the relay in between."""

    def __init__(self, client: socket.socket, gateway: socket.socket) -> None:
        self.client, self.gateway = client, gateway
        for end in (client, gateway):
            end.settimeout(20)


class Relayed:
    def __init__(self, port: int, listener: socket.socket, process: psutil.Process) -> None:
        self.port, self.listener, self.process = port, listener, process

    @contextlib.contextmanager
    def line(self) -> Iterator[Line]:
        with socket.create_connection(("127.0.0.1", self.port)) as client, self.listener.accept()[0] as gateway:
            yield Line(client, gateway)

    def memory(self) -> int:
        return self.process.memory_info().rss


@pytest.fixture
def relayed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Relayed]:
    path = os.fspath(tmp_path_factory.mktemp("gateway") / "s")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen(100)
        listener.settimeout(20)
        command = [sys.executable, "-I", "-S", "-c", _PROGRAM, os.fspath(_PACKAGES), path]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as relay:
            yield Relayed(int(relay.stdout.readline()), listener, psutil.Process(relay.pid))
            assert relay.poll() is None, "it never ends by itself"
            relay.kill()


def everything(end: socket.socket) -> bytes:
    return b"".join(iter(lambda: end.recv(1 << 16), b""))


pieces = st.lists(st.integers(1, 200_000), max_size=8)


@settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)
@given(up=pieces, down=pieces, patient=st.booleans())
def test_what_is_said_arrives_unchanged_in_both_directions(
    relayed: Relayed, up: list[int], down: list[int], patient: bool
) -> None:
    """`patient`: one side says all that it has to say before the other begins, as HTTP/1.0 does."""
    sent = [b"".join(os.urandom(size) for size in sizes) for sizes in (up, down)]
    heard: dict[str, bytes] = {}

    def say(end: socket.socket, text: bytes, sizes: list[int]) -> None:
        at = 0
        for size in sizes:
            end.sendall(text[at : at + size])
            at += size
        end.shutdown(socket.SHUT_WR)

    with relayed.line() as line:

        def gateway() -> None:
            if patient:
                heard["gateway"] = everything(line.gateway)
            say(line.gateway, sent[1], down)
            if not patient:
                heard["gateway"] = everything(line.gateway)

        def client() -> None:
            heard["client"] = everything(line.client)

        threads = [threading.Thread(target=gateway), threading.Thread(target=client)]
        for thread in threads:
            thread.start()
        say(line.client, sent[0], up)
        for thread in threads:
            thread.join()
    assert (heard["gateway"], heard["client"]) == (sent[0], sent[1])


def test_a_client_that_goes_away_is_known_to_the_gateway_at_once(relayed: Relayed) -> None:
    """So that a call under way can be cancelled, also while its answer is being sent."""
    with relayed.line() as line:
        line.client.sendall(b"question")
        assert line.gateway.recv(100) == b"question"
        line.client.close()
        assert line.gateway.recv(100) == b""
        with pytest.raises(OSError):
            for _ in range(1000):
                line.gateway.sendall(bytes(1 << 16))


def test_a_gateway_that_goes_away_is_known_to_the_client_at_once(relayed: Relayed) -> None:
    with relayed.line() as line:
        line.gateway.close()
        assert line.client.recv(100) == b""


def test_a_side_that_does_not_read_makes_the_other_wait_and_takes_no_memory(relayed: Relayed) -> None:
    before = relayed.memory()
    with contextlib.ExitStack() as stack:
        lines = [stack.enter_context(relayed.line()) for _ in range(100)]
        for line in lines:
            line.client.setblocking(False)
            with pytest.raises(BlockingIOError):
                while True:
                    line.client.send(bytes(1 << 20))
        assert relayed.memory() - before < 100 * (1 << 16) + 4 * MIB
        heard = lines[0].gateway.recv(1 << 16, socket.MSG_WAITALL)
        assert heard == bytes(1 << 16)


@pytest.mark.slow
def test_memory_stays_flat_over_thousands_of_connections_and_hundreds_of_megabytes(relayed: Relayed) -> None:
    def one(size: int) -> None:
        with relayed.line() as line:
            sender = threading.Thread(target=lambda: (line.client.sendall(bytes(size)), line.client.close()))
            sender.start()
            heard = sum(iter(lambda: len(line.gateway.recv(1 << 18)), 0))
            sender.join()
            assert heard == size

    for _ in range(200):
        one(1000)
    before = relayed.memory()
    for _ in range(2000):
        one(1000)
    one(300 * MIB)
    assert relayed.memory() - before < MIB
    assert len(os.listdir(f"/proc/{relayed.process.pid}/fd")) < 12


def test_a_relay_without_work_takes_no_time(relayed: Relayed) -> None:
    """A connection of which one side has ended is the kernel's favourite reason to report something again and again."""
    with relayed.line() as half, relayed.line() as open_line, relayed.line() as full:
        half.client.shutdown(socket.SHUT_WR)
        assert half.gateway.recv(10) == b""
        full.client.setblocking(False)
        with pytest.raises(BlockingIOError):
            while True:
                full.client.send(bytes(1 << 20))
        full.client.close()
        open_line.client.sendall(b"x")
        before = relayed.process.cpu_times()
        threading.Event().wait(0.5)
        after = relayed.process.cpu_times()
    assert after.user + after.system - before.user - before.system < 0.1


def test_a_gateway_whose_queue_is_full_is_asked_again(relayed: Relayed, tmp_path: Path) -> None:
    path = os.fspath(tmp_path / "s")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen(1)
        listener.settimeout(20)
        command = [sys.executable, "-I", "-S", "-c", _PROGRAM, os.fspath(_PACKAGES), path]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as relay, contextlib.ExitStack() as stack:
            port = int(relay.stdout.readline())
            clients = [stack.enter_context(socket.create_connection(("127.0.0.1", port))) for _ in range(30)]
            for client in clients:
                client.sendall(b"x")
            accepted = [stack.enter_context(listener.accept()[0]) for _ in clients]
            assert [one.recv(10) for one in accepted] == [b"x"] * 30
            relay.kill()
