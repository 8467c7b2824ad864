"""The streams of a container, and an engine's words when it refuses."""

import socket
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sia_runner.sandbox.container import ContainerStream, EngineClient, EngineError


def frame(which: int, data: bytes) -> bytes:
    return bytes([which, 0, 0, 0]) + len(data).to_bytes(4, "big") + data


@given(
    st.lists(st.tuples(st.sampled_from([1, 2]), st.binary(max_size=40)), max_size=12),
    st.lists(st.integers(1, 30), min_size=1),
)
def test_the_harnesss_output_and_our_status_are_told_apart_however_they_are_cut(
    frames: list[tuple[int, bytes]], sizes: list[int]
) -> None:
    ours, its = socket.socketpair()
    with ours, its:
        stream, output = ContainerStream(ours), b""
        wire = b"".join(frame(which, data) for which, data in frames)
        at, turn = 0, 0
        while at < len(wire):
            size = sizes[turn % len(sizes)]
            its.sendall(wire[at : at + size])
            at, turn = at + size, turn + 1
            output += stream.read() or b""
        its.close()
        assert stream.read() == b""
    assert output == b"".join(data for which, data in frames if which == 1)
    assert stream.status == b"".join(data for which, data in frames if which == 2)


def test_a_harness_cannot_say_how_it_ended() -> None:
    """Its output never gets into the stream that is ours, also if it looks like a frame of it."""
    ours, its = socket.socketpair()
    with ours, its:
        its.sendall(frame(1, frame(2, b"X0")))
        stream = ContainerStream(ours)
        assert stream.read() == frame(2, b"X0")
        assert stream.status == b""


@pytest.fixture
def answering(tmp_path: Path):
    """An engine that gives one prepared answer."""

    def prepare(answer: bytes) -> EngineClient:
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(tmp_path / "s"))
        listener.listen()

        def serve() -> None:
            connection, _ = listener.accept()
            connection.recv(1 << 16)
            connection.sendall(answer)
            connection.close()
            listener.close()

        threading.Thread(target=serve, daemon=True).start()
        return EngineClient(str(tmp_path / "s"), "1.41")

    return prepare


def test_a_refusal_is_one_line_of_the_engines_own_words(answering) -> None:
    engine = answering(b'HTTP/1.0 400 Bad Request\r\n\r\n{"message": "invalid mount:\\n no such path"}')
    with pytest.raises(EngineError) as raised:
        engine.create("{}")
    assert str(raised.value) == "invalid mount: no such path"


def test_what_is_gone_already_need_not_be_killed(answering) -> None:
    answering(b'HTTP/1.0 404 Not Found\r\n\r\n{"message": "No such container"}').kill("x")


def test_an_engine_that_is_away_is_named(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=f"{tmp_path}/none"):
        EngineClient(str(tmp_path / "none"), "1.41").create("{}")
