"""The protocol of sandboxes on other machines, its near end against a far end that lies, and ssh's command line."""

import json
import os
import sys
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sia_runner.sandbox.protocol import Ending, SandboxJob, SandboxLimits
from sia_runner.sandbox.remote import Remote, Ssh
from sia_runner.sandbox.stream import (
    BEGIN,
    MAX_FRAME,
    Frames,
    LinkLost,
    StreamFault,
    TreeTooLarge,
    path_parts,
    receive_tree,
    send_tree,
)
from tests.sandbox.conftest import ENTRY

RESULT = {
    "ending": "exited", "exit_code": 0, "seconds": 1.0, "cpu_seconds": 1.0, "peak_mb": 1.0, "output_bytes": 3,
    "detail": "",
}  # fmt: skip


def frame(kind: bytes, value: object = b"") -> bytes:
    content = value if isinstance(value, bytes) else json.dumps(value).encode()
    return kind + len(content).to_bytes(4, "big") + content


def site(folder: Path, program: str = "print('hello')") -> SandboxJob:
    for name in ("harness", "data", "work"):
        (folder / name).mkdir(parents=True)
    (folder / "harness" / ENTRY).write_text(program)
    (folder / "work" / "before").write_text("as it was")
    limits = SandboxLimits(seconds=20, disk_mb=1, output_kb=1)
    return SandboxJob(folder / "harness", ENTRY, folder / "data", folder / "work", folder / "log", limits)


class Here(Remote):
    """The other machine is this one."""

    name, where = "here", "me@here"

    def __init__(self, program: list[str] | None = None) -> None:
        super().__init__(sys.executable, tempfile.gettempdir(), "auto")
        self._program = program

    def command(self, program: list[str], sockets: tuple[str, str] | None) -> list[str]:
        return self._program or program


def liar(*frames: bytes) -> Here:
    """A far end that takes what comes, and answers with these frames."""
    code = "import sys, threading, time; threading.Thread(target=sys.stdin.buffer.read, daemon=True).start(); "
    code += "sys.stdout.buffer.write(bytes.fromhex(open(sys.argv[1]).read())); sys.stdout.flush(); time.sleep(0.2)"
    with tempfile.NamedTemporaryFile("w", delete=False) as file:
        file.write(b"".join(frames).hex())
    return Here([sys.executable, "-S", "-c", f"{code}; import os; os.unlink(sys.argv[1]); os._exit(0)", file.name])


def test_a_subclass_needs_to_say_only_how_a_program_is_started(tmp_path: Path) -> None:
    job = site(tmp_path, "from pathlib import Path; print(Path('before').read_text()); Path('answer').write_text('42')")
    ended = Here().run(job)
    assert (ended.ending, ended.exit_code) == (Ending.EXITED, 0), ended
    assert job.log.read_text() == "as it was\n" and (job.work / "answer").read_text() == "42"


def test_a_far_end_may_answer_after_the_greeting_of_a_shell(tmp_path: Path) -> None:
    job = site(tmp_path)
    greeted = liar(b"Welcome!\n", BEGIN, frame(b"K"), frame(b"L", b"hel\x1b[2Jlo"), frame(b"."), frame(b"J", RESULT))
    assert greeted.run(job).ending is Ending.EXITED
    assert job.log.read_text() == "hel?[2Jlo" and list(job.work.iterdir()) == []


FILE = {"path": "a", "size": 1, "x": False}
BIG = {"path": "a", "size": 2 << 20, "x": False}


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ([b"no Python here\n" * 9000], "something else"),
        ([BEGIN, frame(b"E", b"no\x1b space\nleft")], "me@here: no space left"),
        ([BEGIN], "the connection ended"),
        ([BEGIN, b"L" + (MAX_FRAME + 1).to_bytes(4, "big")], "a frame of"),
        ([BEGIN, frame(b"F", {**FILE, "path": "../out"}), frame(b"D", b"x")], "../out"),
        ([BEGIN, frame(b"F", BIG)], "more than 1 MiB"),
        ([BEGIN, *[frame(b"P", {"path": str(n)}) for n in range(300)]], "more than 1 MiB"),
        ([BEGIN, frame(b"F", FILE), frame(b"D", b"xx")], "without its content"),
        ([BEGIN, frame(b"F", FILE), frame(b"D", b"x"), frame(b"F", FILE)], "a second time"),
        ([BEGIN, frame(b"F", {**FILE, "size": -1})], "something else"),
        ([BEGIN, frame(b"F", {**FILE, "size": True})], "something else"),
        ([BEGIN, frame(b"F", b"[" * 100_000)], "no JSON"),
        ([BEGIN, frame(b"."), frame(b"J", {**RESULT, "ending": "won"})], "a result that is none"),
        ([BEGIN, frame(b"."), frame(b"J", {**RESULT, "exit_code": -1})], "a result that is none"),
        ([BEGIN, frame(b"."), frame(b"J", {**RESULT, "seconds": float("inf")})], "a result that is none"),
        ([BEGIN, frame(b"."), frame(b"J", {**RESULT, "more": 1})], "a result that is none"),
        ([BEGIN, frame(b"."), frame(b"J", [1])], "a result that is none"),
        ([BEGIN, frame(b"."), frame(b"J", {**RESULT, "ending": "interrupted"})], "stopped the harness"),
    ],
)
def test_a_far_end_that_lies_stops_the_run_and_changes_nothing(answer: list[bytes], words: str, tmp_path: Path) -> None:
    job = site(tmp_path)
    ended = liar(*answer).run(job)
    assert ended.ending is Ending.NOT_STARTED and words in ended.detail, ended
    assert ended.detail.startswith("me@here") and ended.detail.isprintable()
    assert [path.name for path in job.work.iterdir()] == ["before"]
    assert sorted(path.name for path in tmp_path.iterdir() if path != job.log) == ["data", "harness", "work"]


def test_a_log_without_end_is_bounded(tmp_path: Path) -> None:
    job = site(tmp_path)
    endless = liar(BEGIN, *[frame(b"L", b"x" * 50_000)] * 20, frame(b"."), frame(b"J", RESULT))
    assert endless.run(job).ending is Ending.EXITED
    assert job.log.stat().st_size < 10_000


NAMES = st.one_of(
    st.lists(st.sampled_from(["a", "b", "..", ".", "", "\0", "a" * 256, "\udc80", "\ud800"]), max_size=5).map("/".join),
    st.text(max_size=20),
    st.none(),
    st.integers(),
)
PIECES = st.one_of(
    st.builds(lambda path, size: frame(b"F", {"path": path, "size": size}), NAMES, st.integers(-1, 20)),
    st.builds(lambda path: frame(b"P", {"path": path}), NAMES),
    st.builds(lambda data: frame(b"D", data), st.binary(max_size=20)),
    st.just(frame(b".")),
    st.binary(max_size=30),
)


@given(st.lists(PIECES, max_size=12))
def test_whatever_comes_is_written_into_the_folder_or_refused(pieces: list[bytes]) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "in"
        folder.mkdir()
        reader, writer = os.pipe()
        os.write(writer, b"".join(pieces))
        os.close(writer)
        frames = Frames(reader, -1)
        try:
            receive_tree(frames.receive, str(folder), 64 << 10)
        except (StreamFault, LinkLost):
            pass
        finally:
            os.close(reader)
        assert [path.name for path in Path(name).iterdir()] == ["in"]
        found = list(folder.rglob("*"))
        assert len(found) <= 16 and not any(path.is_symlink() for path in found)


@given(NAMES)
def test_a_path_that_is_taken_stays_inside(name: object) -> None:
    try:
        parts = path_parts(name)
    except StreamFault:
        return
    assert isinstance(name, str) and parts
    assert os.path.normpath(f"/x/{name}") == f"/x/{name}" and all(len(os.fsencode(part)) <= 255 for part in parts)


def test_a_tree_is_the_same_on_both_ends_without_links_and_what_is_too_deep(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    (source / "a" / "b").mkdir(parents=True)
    target.mkdir()
    (source / "a" / "program").write_bytes(os.urandom(200_000))
    (source / "a" / "program").chmod(0o700)
    (source / "empty").touch()
    (source / "link").symlink_to("/etc/passwd")
    os.mkfifo(source / "pipe")
    source.joinpath(*"d" * 70).mkdir(parents=True)
    reader, writer = os.pipe()
    sender = threading.Thread(target=send_tree, args=(Frames(-1, writer), str(source)))
    sender.start()
    receive_tree(Frames(reader, -1).receive, str(target), 1 << 30)
    sender.join()
    os.close(reader)
    os.close(writer)
    assert (target / "a" / "program").read_bytes() == (source / "a" / "program").read_bytes()
    assert os.access(target / "a" / "program", os.X_OK) and not os.access(target / "link", os.F_OK)
    assert {path.name for path in target.iterdir()} == {"a", "d", "empty"} and (target / "a" / "b").is_dir()
    with pytest.raises(TreeTooLarge):
        send_tree(Frames(-1, -1), str(source), 1 << 16)


@pytest.fixture
def source() -> Iterator[Path]:
    """A folder to which other users have a way; pytest's own are root's."""
    with tempfile.TemporaryDirectory(prefix="sia-test-") as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_folders_that_a_harness_may_not_read_itself_are_left_out(tmp_path: Path, source: Path) -> None:
    """The far end of an ordinary user meets them: that is no fault of the host."""
    user = 61234
    for name, mode in (("closed", 0), ("listed", 0o444), ("open", 0o755)):
        (source / name / "below").mkdir(parents=True)
        os.chown(source / name, user, user)
        (source / name).chmod(mode)
    reader, writer = os.pipe()
    if (child := os.fork()) == 0:
        os.setuid(user)
        try:
            send_tree(Frames(-1, writer), str(source), 1 << 20, owner=user)
            os._exit(0)
        except BaseException:
            os._exit(1)
    (tmp_path / "target").mkdir()
    os.close(writer)
    try:
        receive_tree(Frames(reader, -1).receive, str(tmp_path / "target"), 1 << 20)
    finally:
        os.close(reader)
        assert os.waitpid(child, 0)[1] == 0
    assert {path.name for path in (tmp_path / "target").iterdir()} == {"closed", "listed", "open"}


def ssh(**keys: object) -> Ssh:
    wanted = {
        "host": "gpu.example.org", "user": "me", "port": 2222, "identity": "/my keys/id",
        "known_hosts": "/my keys/known", "python": "python3.12", "folder": "/var/tmp", "backend": "bubblewrap",
    }  # fmt: skip
    return Ssh(**{**wanted, **keys})  # type: ignore[arg-type]


def test_the_command_line_asks_nobody_and_trusts_only_the_named_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "ssh").write_text("#!/bin/sh\n")
    (tmp_path / "ssh").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    words = ssh().command(["python3.12", "-c", "print('a b')"], ("/var/tmp/there", "/tmp/here/g"))
    options = {value.partition("=")[0]: value.partition("=")[2] for name, value in pairwise(words) if name == "-o"}
    assert options["StrictHostKeyChecking"] == options["BatchMode"] == options["ExitOnForwardFailure"] == "yes"
    assert options["UserKnownHostsFile"] == '"/my keys/known"' and options["GlobalKnownHostsFile"] == "none"
    assert options["IdentityFile"] == '"/my keys/id"' and options["IdentitiesOnly"] == "yes"
    assert options["ForwardAgent"] == options["ForwardX11"] == options["PermitLocalCommand"] == "no"
    assert words[words.index("-F") + 1] == "none" and words[words.index("-R") + 1] == "/var/tmp/there:/tmp/here/g"
    assert words[-7:-1] == ["-p", "2222", "-l", "me", "--", "gpu.example.org"]
    assert words[-2:] == ["gpu.example.org", """exec python3.12 -c 'print('"'"'a b'"'"')'"""]
    assert "-R" not in ssh().command(["x"], None)


def test_an_environment_of_this_machine_is_refused(tmp_path: Path) -> None:
    ended = ssh().run(replace(site(tmp_path), python=Path(sys.executable)))
    assert ended.ending is Ending.NOT_STARTED and "sandbox=ssh runs the Python of the host" in ended.detail
