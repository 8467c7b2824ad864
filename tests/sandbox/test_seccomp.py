"""The filter program, run by an interpreter of our own: what it refuses, on both processors."""

import errno
import re
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sia_runner.sandbox.seccomp import NUMBERS, filter_program

ALLOWED = 0x7FFF0000
AUDIT = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
MACHINES = list(AUDIT)


def run(code: bytes, number: int, arguments: "tuple[int, ...]" = (), audit: int = AUDIT["x86_64"]) -> int:
    """What the kernel would do with one call: classic BPF over struct seccomp_data."""
    padded = [*arguments, *[0] * 6][:6]
    data = struct.pack("=iIQ6Q", number, audit, 0, *[value % 2**64 for value in padded])
    ops = list(struct.iter_unpack("=HBBI", code))
    at, register = 0, 0
    while True:
        op, yes, no, k = ops[at]
        at += 1
        if op == 0x06:
            return k
        if op == 0x20:
            (register,) = struct.unpack_from("=I", data, k)
        else:
            at += yes if {0x15: register == k, 0x35: register >= k, 0x45: bool(register & k)}[op] else no


def refused(result: int) -> int:
    """The errno of a refusal."""
    assert result & 0xFFFF0000 == 0x00050000, hex(result)
    return result & 0xFFFF


@pytest.fixture(params=MACHINES)
def machine(request: pytest.FixtureRequest) -> str:
    return request.param


def call(machine: str, name: str, *arguments: int, sockets: str = "namespace", own_files: bool = True) -> int:
    code = filter_program(sockets=sockets, own_files=own_files, machine=machine)
    return run(code, NUMBERS[name][MACHINES.index(machine)], arguments, AUDIT[machine])


DANGEROUS = [
    "unshare",
    "setns",
    "mount",
    "move_mount",
    "ptrace",
    "process_vm_writev",
    "bpf",
    "keyctl",
    "io_uring_setup",
    "perf_event_open",
    "userfaultfd",
    "open_by_handle_at",
    "shmget",
    "sched_setaffinity",
    "pidfd_getfd",
    "kexec_load",
]


@pytest.mark.parametrize("name", DANGEROUS)
def test_calls_that_escapes_are_built_from_are_refused(machine: str, name: str) -> None:
    assert refused(call(machine, name)) == errno.EPERM


def test_a_clone_is_allowed_without_new_namespaces_only(machine: str) -> None:
    thread = 0x3D0F00
    assert call(machine, "clone", thread) == ALLOWED
    assert call(machine, "clone", 17) == ALLOWED
    for flag in (0x10000000, 0x20000, 0x02000000, 0x04000000, 0x08000000, 0x20000000, 0x40000000):
        assert refused(call(machine, "clone", thread | flag)) == errno.EPERM
    assert refused(call(machine, "clone3")) == errno.ENOSYS


def test_limits_of_others_cannot_be_set(machine: str) -> None:
    assert call(machine, "prlimit64", 0) == ALLOWED
    assert refused(call(machine, "prlimit64", 4711)) == errno.EPERM
    assert call(machine, "setpriority", 0, 0) == ALLOWED
    assert refused(call(machine, "setpriority", 0, 4711)) == errno.EPERM
    assert refused(call(machine, "setpriority", 2, 0)) == errno.EPERM


def test_sockets_need_a_namespace_and_a_family_that_it_contains(machine: str) -> None:
    assert call(machine, "socket", 2, 1) == ALLOWED
    assert refused(call(machine, "socket", 40, 1)) == errno.EAFNOSUPPORT  # vsock reaches the virtual machine's host
    for family in range(50):
        assert refused(call(machine, "socket", family, 1, sockets="none")) == errno.EACCES


def test_with_the_hosts_files_in_reach_no_unix_socket_is_made(machine: str) -> None:
    """A network namespace does not contain them: a user's session bus would start programs outside."""
    assert refused(call(machine, "socket", 1, 1, sockets="network")) == errno.EAFNOSUPPORT
    assert refused(call(machine, "socket", 1, 1, sockets="loopback")) == errno.EAFNOSUPPORT
    for kind in (1, 2):
        assert call(machine, "socket", 2, kind, sockets="network") == ALLOWED


def test_on_the_hosts_loopback_a_socket_is_a_tcp_client_and_made_by_the_relay(machine: str) -> None:
    asked, stream, nonblocking = 0x7FC00000, 1, 0x80800
    for family in (2, 10):
        for protocol in (0, 6):
            assert call(machine, "socket", family, stream | nonblocking, protocol, sockets="loopback") == asked
        for kind in (2, 3, 4, 5, 6, 10):
            assert refused(call(machine, "socket", family, kind, sockets="loopback")) == errno.EACCES
        for mptcp_sctp_udp in (262, 132, 17):
            assert refused(call(machine, "socket", family, stream, mptcp_sctp_udp, sockets="loopback")) == errno.EACCES
    fast_open, ulp = 0x20000000, 31
    for name, arguments in (("bind", ()), ("listen", ()), ("setsockopt", (3, 6, ulp)), ("sendmsg", (3, 0, fast_open)),
                            ("sendto", (3, 0, 0, fast_open)), ("sendmmsg", (3, 0, 0, fast_open))):  # fmt: skip
        assert refused(call(machine, name, *arguments, sockets="loopback")) == errno.EACCES
        assert call(machine, name, *arguments) == ALLOWED
    assert call(machine, "setsockopt", 3, 6, 1, sockets="loopback") == ALLOWED


def test_modes_of_a_users_files_stay(machine: str) -> None:
    assert refused(call(machine, "fchmodat", own_files=False)) == 0  # "success", and nothing happens
    assert refused(call(machine, "fchownat", own_files=False)) == errno.EPERM
    assert call(machine, "fchmodat") == ALLOWED


def test_another_architectures_calls_kill_and_x32_calls_do_not_exist() -> None:
    code = filter_program(sockets="namespace", own_files=True, machine="x86_64")
    assert run(code, 1, audit=0x40000003) == 0x80000000
    assert refused(run(code, 0x40000000 | 165)) == errno.ENOSYS


@given(number=st.integers(0, 600), machine=st.sampled_from(MACHINES))
def test_calls_that_are_not_listed_are_allowed(number: int, machine: str) -> None:
    column = MACHINES.index(machine)
    if number not in {pair[column] for pair in NUMBERS.values()}:
        assert (
            run(filter_program(sockets="none", own_files=False, machine=machine), number, (), AUDIT[machine]) == ALLOWED
        )


@pytest.mark.parametrize(
    ("header", "column"),
    [("/usr/include/x86_64-linux-gnu/asm/unistd_64.h", 0), ("/usr/include/asm-generic/unistd.h", 1)],
)
def test_numbers_are_those_of_the_kernels_headers(header: str, column: int) -> None:
    if not Path(header).exists():
        pytest.skip(f"NOT TESTED: {header} is not installed")
    known = {
        name: int(number) for name, number in re.findall(r"#define __NR(?:3264)?_(\w+) (\d+)", Path(header).read_text())
    }
    ours = {name: pair[column] for name, pair in NUMBERS.items() if name in known}
    assert len(ours) > 60
    assert ours == {name: known[name] for name in ours}
