"""Exact limits by cgroup, where one can be made."""

import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from sia_runner.sandbox import cgroups

EAT = "b = []\nwhile True:\n    b.append(bytearray(4 << 20)); b[-1][::4096] = b'x' * 1024\n"
FORK = """
import os, time
n = 0
try:
    while True:
        if os.fork() == 0:
            time.sleep(1); os._exit(0)
        n += 1
except OSError:
    print(n)
"""


@pytest.fixture
def group() -> "cgroups.Group":
    cgroup = cgroups.create_cgroup(64 << 20, 10)
    if cgroup is None:
        pytest.skip("NOT TESTED: no cgroup can be made here (v2 not delegated, or v1 and not root)")
    yield cgroup
    cgroup.remove()


def run_in(group: cgroups.Cgroup, code: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-c", code], preexec_fn=group.join, capture_output=True, text=True, timeout=30
    )


def test_memory_is_bounded_exactly_and_the_kill_is_counted(group: cgroups.Cgroup) -> None:
    assert group.oom_kills() == 0
    assert run_in(group, EAT).returncode == -9
    assert group.oom_kills() > 0 and group.memory_killer() == "limit"
    assert 48 << 20 < group.peak_bytes() <= 64 << 20


def test_a_kill_that_is_not_for_its_own_limit_is_told_apart(group: cgroups.Cgroup) -> None:
    """A group above it has no memory left, as a machine may have none."""
    inner = f"{group.memory}/inner"
    with suppress(OSError), open(f"{group.memory}/cgroup.subtree_control", "w") as file:  # version 2
        file.write("+memory")
    os.mkdir(inner)
    try:
        roomy = cgroups.Cgroup(inner, inner if group.version == 2 else group.pids, group.version)
        assert roomy.memory_killer() == ""
        assert run_in(roomy, EAT).returncode == -9
        assert roomy.memory_killer() == "machine"
    finally:
        os.rmdir(inner)


def test_processes_are_bounded(group: cgroups.Cgroup) -> None:
    assert int(run_in(group, FORK).stdout) == 9


def test_this_machines_version_is_found(group: cgroups.Cgroup) -> None:
    assert group.version == (2 if os.path.exists(f"{cgroups.ROOT}/cgroup.controllers") else 1)


def test_a_removed_group_is_gone_and_a_dead_supervisors_is_swept(group: cgroups.Cgroup) -> None:
    parent = os.path.dirname(group.memory)
    stale = f"{parent}/sia-999999999"
    os.mkdir(stale)
    group.remove()
    assert not os.path.exists(group.memory)
    fresh = cgroups.create_cgroup(64 << 20, 10)
    assert fresh and not os.path.exists(stale)
    fresh.remove()


def test_where_none_can_be_made_there_is_none(tmp_path: "os.PathLike[str]") -> None:
    assert cgroups.create_cgroup(64 << 20, 10, root=os.fspath(tmp_path)) is None


def test_v2_is_used_where_it_is_delegated() -> None:
    if not os.path.exists(f"{cgroups.ROOT}/cgroup.controllers"):
        pytest.skip("NOT TESTED: this machine has no cgroup v2 hierarchy at /sys/fs/cgroup")
    cgroup = cgroups.create_cgroup(64 << 20, 10)
    if cgroup is None:
        pytest.skip("NOT TESTED: cgroup v2 is not delegated to this user")
    assert cgroup.version == 2
    cgroup.remove()


def test_v2_takes_the_nearest_ancestor_that_hands_its_controllers_on(
    tmp_path: "os.PathLike[str]", monkeypatch: pytest.MonkeyPatch
) -> None:
    """As under a user's systemd: the session's own cgroup holds processes, the slice above it is delegated.

    Files in place of the kernel's: this shows where a group is made and with which limits, not that they hold.
    """
    for path, controllers in (("", "cpu memory pids"), ("/slice", "memory pids"), ("/slice/session", "")):
        os.makedirs(f"{tmp_path}{path}", exist_ok=True)
        for name, content in (
            ("cgroup.controllers", ""),
            ("cgroup.procs", ""),
            ("cgroup.subtree_control", controllers),
        ):
            with open(f"{tmp_path}{path}/{name}", "w") as file:
                file.write(content)
    monkeypatch.setattr(cgroups, "_paths", lambda: {"": "/slice/session"})
    cgroup = cgroups.create_cgroup(64 << 20, 10, root=os.fspath(tmp_path))
    assert cgroup and os.path.dirname(cgroup.memory) == f"{tmp_path}/slice"
    written = {path.name: path.read_text() for path in Path(cgroup.memory).iterdir()}
    assert written == {"memory.max": str(64 << 20), "pids.max": "10", "memory.oom.group": "1"}
