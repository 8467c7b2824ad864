"""Taking a submission out of a folder that a hostile program filled."""

import os
import resource
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sia_runner.tasks.collect import REFUSAL_FILE, CopyQuota, collect_submission, collect_tree, read_refusal

SECRET = "secret of the host"


@pytest.fixture
def host(tmp_path):
    (tmp_path / "host").mkdir()
    (tmp_path / "host" / "secret.csv").write_text(SECRET)
    return tmp_path / "host"


@pytest.fixture
def work(tmp_path):
    (tmp_path / "work").mkdir()
    return tmp_path / "work"


@pytest.fixture
def taken(tmp_path, work):
    def take(cap_mb=1):
        collect_submission(work, tmp_path / "taken", "submission.csv", cap_mb)
        return tmp_path / "taken"

    return take


def everything_in(folder):
    return b"".join(path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file())


def test_a_plain_submission_is_copied(work, taken):
    (work / "submission.csv").write_bytes(b"id,label\r\n1,a\r\n")
    assert (taken() / "submission.csv").read_bytes() == b"id,label\r\n1,a\r\n"
    assert read_refusal(taken()) == ""


def test_no_submission_is_no_refusal(taken):
    assert list(taken().iterdir()) == []


def test_only_the_submission_and_the_execution_logs_are_taken(work, taken):
    (work / "agent_execution").mkdir()
    for name in (
        "submission.csv",
        "results.json",
        "junk.bin",
        "agent_execution.json",
        "agent_execution/execution_q7.json",
    ):
        (work / name).write_text("{}")
    (work / "agent_execution" / "other.json").write_text("{}")
    names = {path.relative_to(taken()).as_posix() for path in taken().rglob("*") if path.is_file()}
    assert names == {"submission.csv", "agent_execution.json", "agent_execution/execution_q7.json"}


@pytest.mark.parametrize("absolute", [True, False])
def test_a_symlink_is_not_followed(work, taken, host, absolute):
    target = host / "secret.csv" if absolute else "../host/secret.csv"
    (work / "submission.csv").symlink_to(target)
    (work / "agent_execution.json").symlink_to(target)
    assert SECRET.encode() not in everything_in(taken())
    assert "link" in read_refusal(taken())


def test_a_linked_folder_is_not_entered(work, taken, host):
    (host / "execution_q1.json").write_text(SECRET)
    (work / "agent_execution").symlink_to(host)
    assert everything_in(taken()) == b""


def test_a_hard_link_is_not_taken(work, taken, host):
    os.link(host / "secret.csv", work / "submission.csv")
    assert SECRET.encode() not in everything_in(taken())
    assert "hard link" in read_refusal(taken())


@pytest.mark.parametrize("kind", ["fifo", "socket", "folder", "device"])
def test_what_is_no_file_is_refused_at_once(work, taken, kind):
    path = work / "submission.csv"
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "socket":
        here = os.open(work, os.O_RDONLY)
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(f"/proc/self/fd/{here}/submission.csv")  # the path itself may be too long for a socket
        os.close(here)
    elif kind == "folder":
        path.mkdir()
    elif os.geteuid() == 0:
        os.mknod(path, 0o20666, os.makedev(1, 5))  # /dev/zero: reading it would never end
    else:
        pytest.skip("only root can make a device file")
    began = time.monotonic()
    assert read_refusal(taken())
    assert time.monotonic() - began < 1


def test_a_file_above_the_cap_is_refused_without_reading_it(work, taken):
    with (work / "submission.csv").open("wb") as stream:
        stream.truncate(1 << 30)  # sparse
    began = time.monotonic()
    assert "larger than" in read_refusal(taken())
    assert not (taken() / "submission.csv").exists()
    assert time.monotonic() - began < 1


def test_a_file_that_grows_while_it_is_read_stays_within_the_cap(work, taken, monkeypatch):
    path, read = work / "submission.csv", os.read
    path.write_bytes(b"x")

    def growing(source, size):
        with path.open("ab") as stream:
            stream.write(b"x" * size)
        return read(source, size)

    monkeypatch.setattr(os, "read", growing)
    assert "grows" in read_refusal(taken())
    assert sum(p.stat().st_size for p in taken().iterdir()) < 1000


def test_copying_needs_little_memory(work, tmp_path):
    with (work / "submission.csv").open("wb") as stream:
        stream.truncate(300 << 20)
    program = (
        "import resource, sys; from pathlib import Path; from sia_runner.tasks.collect import collect_submission;"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss;"
        "collect_submission(Path(sys.argv[1]), Path(sys.argv[2]), 'submission.csv', 400);"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    command = [sys.executable, "-c", program, str(work), str(tmp_path / "taken")]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert int(done.stdout) < 16 * 1024  # KiB
    assert (tmp_path / "taken" / "submission.csv").stat().st_size == 300 << 20


def test_a_forged_refusal_or_leftover_name_is_not_taken_over(work, taken):
    (work / REFUSAL_FILE).write_text("forged")
    (work / ".copying").write_text("forged")
    (work / "submission.csv").write_text("id,label\n")
    assert read_refusal(taken()) == ""
    assert {path.name for path in taken().iterdir()} == {"submission.csv"}


def test_the_number_and_size_of_logs_are_bounded(work, taken):
    (work / "agent_execution").mkdir()
    for n in range(1200):
        (work / "agent_execution" / f"execution_q{n}.json").write_text("{}")
    with (work / "agent_execution.json").open("wb") as stream:
        stream.truncate(1 << 30)
    assert len(list((taken() / "agent_execution").iterdir())) == 1000
    assert not (taken() / "agent_execution.json").exists()


# --- whole folders, for sia-agent tasks ---------------------------------------------------------------------


@pytest.fixture
def tree(tmp_path, work):
    def take(files=100, size=1 << 20):
        collect_tree(work, tmp_path / "tree", CopyQuota(files, size), frozenset({"results.json"}))
        return tmp_path / "tree"

    return take


def names_in(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_a_tree_is_copied_without_links_and_without_what_is_left_out(work, tree, host):
    (work / "results").mkdir()
    for name in ("a.csv", "results/run.json", "results.json", "results/results.json"):
        (work / name).write_text("{}")
    (work / "link").symlink_to(host / "secret.csv")
    (work / "folder_link").symlink_to(host)
    (work / "loop").symlink_to(".")
    os.link(host / "secret.csv", work / "hard")
    os.mkfifo(work / "pipe")
    assert names_in(tree()) == {"a.csv", "results/run.json", "results/results.json"}
    assert read_refusal(tree()) == ""


def test_too_many_files_refuse_the_tree(work, tree):
    for n in range(120):
        (work / f"{n}.txt").write_text("x")
    assert "too many files" in read_refusal(tree())


def test_too_many_empty_folders_refuse_the_tree(work, tree):
    for n in range(300):
        (work / f"{n}").mkdir()
    assert "too many files and folders" in read_refusal(tree())


def test_too_many_bytes_refuse_the_tree(work, tree):
    for n in range(3):
        (work / f"{n}.bin").write_bytes(b"x" * 400_000)
    assert "larger than" in read_refusal(tree())


def test_a_deep_tree_and_the_longest_names_are_no_trouble(work, tree):
    deep = work
    for _ in range(60):
        deep = deep / "d"
        deep.mkdir()
    (deep / "f").write_text("x")
    (work / ("名" * 85)).write_text("longest name in bytes")
    (work / os.fsdecode(b"not utf-8 \xff")).write_text("x")
    assert names_in(tree()) == {"名" * 85, os.fsdecode(b"not utf-8 \xff")}


def test_nothing_stays_open(work, tree, taken):
    (work / "submission.csv").symlink_to("nowhere")
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(50):
        tree()
        taken()
    assert len(list(Path("/proc/self/fd").iterdir())) == before < resource.getrlimit(resource.RLIMIT_NOFILE)[0]
