"""A harness with an address reaches the gateway, and nothing else; one without has no network at all."""

import json
import os
import signal
import socket
import subprocess
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from sia_runner.records import GatewayAddress
from sia_runner.sandbox import process
from sia_runner.sandbox.bubblewrap import Bubblewrap
from sia_runner.sandbox.process import Process
from sia_runner.sandbox.protocol import Ending, SandboxError, SandboxJob
from tests.sandbox.conftest import Box, Ran, make_box, sandbox_processes, wait_until
from tests.sandbox.gateway import serve
from tests.sandbox.test_supervisor import processes_inside, supervisor_of

CLIENT = """
import hashlib, http.client, os, socket, sys, threading, time
HOST, PORT = os.environ['GATEWAY'].removeprefix('http://').split(':')
def ask(method, path, body=None):
    client = http.client.HTTPConnection(HOST, int(PORT), timeout=20)
    client.request(method, path, body)
    return client.getresponse().read()
"""


def through(box: Box, program: str, **limits: float) -> Ran:
    with serve() as address:
        return box.run_job(with_address(box, program, address, **limits))


def with_address(box: Box, program: str, address: GatewayAddress, **limits: float) -> SandboxJob:
    job = box.job("", **limits)
    (job.harness / job.entry).write_text(CLIENT + program)
    return replace(job, gateway=address)


def test_the_gateway_answers_from_the_first_moment_on(open_box: Box) -> None:
    ran = through(open_box, "print(ask('GET', '/hello').decode(), HOST, os.environ['NO_PROXY'])")
    assert ran.log == "hello 127.0.0.1 127.0.0.1,localhost\n", ran
    assert ran.ended.exit_code == 0


def test_a_stream_arrives_as_it_is_sent(own_open_box: Box) -> None:
    ran = through(own_open_box, """
client = http.client.HTTPConnection(HOST, int(PORT))
client.request('GET', '/stream')
answer = client.getresponse()
first, at = answer.read(6), time.monotonic()
print(first + answer.read(), time.monotonic() - at > 0.2)
""")  # fmt: skip
    assert ran.log == "b'first,second' True\n", ran


def test_bodies_of_ten_megabytes_pass_unchanged_in_both_directions(own_open_box: Box) -> None:
    ran = through(own_open_box, """
body = os.urandom(10_000_000)
print(ask('POST', '/echo', body) == body)
""")  # fmt: skip
    assert ran.log == "True\n", ran


def test_a_client_that_says_no_more_still_gets_its_answer(own_open_box: Box) -> None:
    ran = through(own_open_box, """
body = os.urandom(300_000)
with socket.create_connection((HOST, int(PORT))) as client:
    client.sendall(b'POST /digest HTTP/1.1\\r\\n\\r\\n' + body)
    client.shutdown(socket.SHUT_WR)
    answer = client.makefile('rb').read()
print(answer.endswith(hashlib.sha256(body).hexdigest().encode()))
""")  # fmt: skip
    assert ran.log == "True\n", ran


def test_an_answer_that_comes_before_the_question_was_read_is_not_lost(own_open_box: Box) -> None:
    ran = through(own_open_box, """
with socket.create_connection((HOST, int(PORT))) as client:
    client.sendall(b'POST /refuse HTTP/1.1\\r\\nContent-Length: 100000000\\r\\n\\r\\n')
    for _ in range(60):
        client.send(bytes(65536))
    answer = b''
    while not answer.endswith(b'too large') and (more := client.recv(1000)):
        answer += more
    print(answer.endswith(b'too large'))
""")  # fmt: skip
    assert ran.log == "True\n", ran


def test_64_requests_at_the_same_time_all_get_their_own_answer(open_box: Box) -> None:
    ran = through(open_box, """
from concurrent.futures import ThreadPoolExecutor
bodies = [f'{n},'.encode() * 5000 for n in range(256)]
with ThreadPoolExecutor(64) as pool:
    print(list(pool.map(lambda body: ask('POST', '/echo', body), bodies)) == bodies)
""", processes=66)  # fmt: skip
    assert ran.log == "True\n", ran


def test_nothing_else_is_reachable(open_box: Box) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as tcp,
        socket.create_server(("::1", 0), family=socket.AF_INET6) as tcp6,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp,
        socket.socket(socket.AF_UNIX) as abstract,
        serve() as address,
    ):
        udp.bind(("127.0.0.1", 0))
        abstract.bind(f"\0sia-test-{os.getpid()}")  # one a test process
        abstract.listen()
        ran = open_box.run_job(with_address(open_box, f"""
def attempt(what, act):
    try:
        act(); print('DONE', what)
    except OSError as error:
        print(what, error)
def udp(address):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.settimeout(0.3); s.sendto(b'hello', address); s.recv(10)
def quick(port, kind=socket.SOCK_STREAM, protocol=0):
    with socket.socket(socket.AF_INET, kind, protocol) as s:
        s.settimeout(1); s.sendto(b'hello', 0x20000000, ('127.0.0.1', port)); s.getpeername()
def mptcp(port):
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM, 262) as s:
        s.settimeout(1); s.connect(('127.0.0.1', port))
def released(option, value):
    with socket.socket() as s:
        s.settimeout(1); s.setsockopt(socket.SOL_SOCKET, option, value); s.connect(('1.1.1.1', int(PORT)))
def reused():  # a connection to AF_UNSPEC ends another, and resets what it had set
    import ctypes
    with socket.create_connection((HOST, int(PORT))) as s:
        libc = ctypes.CDLL(None, use_errno=True)
        assert libc.connect(s.fileno(), (ctypes.c_uint16 * 8)(), 16) == 0, ctypes.get_errno()
        s.settimeout(1); s.connect(('1.1.1.1', int(PORT)))
attempt('tcp', lambda: socket.create_connection(('127.0.0.1', {tcp.getsockname()[1]}), 2))
attempt('tcp6', lambda: socket.create_connection(('::1', {tcp6.getsockname()[1]}), 2))
attempt('fast open', lambda: quick({tcp.getsockname()[1]}))
attempt('mptcp', lambda: mptcp({tcp.getsockname()[1]}))
attempt('out', lambda: socket.create_connection(('1.1.1.1', 53), 1))
attempt('out6', lambda: socket.create_connection(('2606:4700:4700::1111', 53), 1))
attempt('out, same port', lambda: socket.create_connection(('1.1.1.1', int(PORT)), 1))
attempt('out, released', lambda: released(socket.SO_BINDTODEVICE, b''))
attempt('out, released by number', lambda: released(62, 0))
attempt('out, reused', reused)
attempt('udp', lambda: udp(('127.0.0.1', {udp.getsockname()[1]})))
attempt('dns', lambda: socket.getaddrinfo('example.org', 443))
attempt('abstract', lambda: socket.socket(socket.AF_UNIX).connect(chr(0) + 'sia-test-{os.getpid()}'))
for path in ('/run/dbus/system_bus_socket', {os.fspath(address.socket)!r}):
    attempt(path, lambda: socket.socket(socket.AF_UNIX).connect(path))
for family in (17, 38, 40, 43, 44, 15):  # packet, alg, vsock, smc, xdp, key
    attempt(f'family {{family}}', lambda: socket.socket(family, socket.SOCK_STREAM))
attempt('raw', lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, 1))
print('and', ask('GET', '/hello'))
""", address, seconds=30))  # fmt: skip
        for listener in (tcp, tcp6, udp, abstract):
            listener.settimeout(0.05)
        for accept in (tcp.accept, tcp6.accept, lambda: udp.recv(10), abstract.accept):
            with pytest.raises(TimeoutError):
                accept()
    assert "DONE" not in ran.log
    assert ran.log.endswith("and b'hello'\n"), ran


def test_on_the_hosts_loopback_nothing_is_offered_to_others(public_home: Path, request: pytest.FixtureRequest) -> None:
    """Neither by binding nor by listening on a port that the kernel chooses; and no socket leads further."""
    box = make_box(request, f"process-{'root' if os.geteuid() == 0 else 'user'}-loopback", public_home)
    ran = through(box, """
for act in (lambda s: s.bind(('127.0.0.1', 0)), lambda s: s.listen(1)):
    try:
        act(socket.socket())
        print('DONE')
    except PermissionError as error:
        print(error.errno)
with socket.create_connection((HOST, int(PORT))) as client:
    print(client.getsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, 16))
""")  # fmt: skip
    assert ran.log == "13\n13\nb'lo\\x00'\n", ran


def test_sockets_are_refused_when_no_descriptor_is_left_rather_than_waited_for(own_open_box: Box) -> None:
    ran = through(own_open_box, """
held = []
try:
    while True:
        held.append(socket.socket(socket.AF_INET))
except OSError as error:
    print(error.errno, len(held) > 500)
del held
print(ask('GET', '/hello'))
""")  # fmt: skip
    assert ran.log == "24 True\nb'hello'\n", ran


def test_more_connections_than_the_relay_holds_wait_for_their_turn(own_open_box: Box) -> None:
    ran = through(own_open_box, """
held = [socket.create_connection((HOST, int(PORT))) for _ in range(700)]
for client in held:
    client.close()
print(ask('GET', '/hello'))
""")  # fmt: skip
    assert ran.log == "b'hello'\n", ran


def test_a_gateway_that_is_gone_is_a_connection_that_ends(own_open_box: Box) -> None:
    with serve() as address:
        job = with_address(own_open_box, """
for _ in range(2):
    with socket.create_connection((HOST, int(PORT)), 5) as client:
        try:
            print(client.recv(10))
        except ConnectionResetError:
            print(b'')
""", address)  # fmt: skip
        kept = Path(f"{address.socket}.kept")
        with socket.socket(socket.AF_UNIX) as nobody:  # bound, and never listened to
            nobody.bind(os.fspath(kept))
            kept.chmod(0o666)
            ran = own_open_box.run_job(replace(job, gateway=GatewayAddress(kept, address.env)))
    assert ran.log == "b''\nb''\n", ran


def test_the_certificates_that_clients_load_whatever_the_url_can_be_read(open_box: Box) -> None:
    ran = through(open_box, """
import ssl
paths = ssl.get_default_verify_paths()
if paths.cafile or paths.capath:
    ssl.create_default_context().load_verify_locations(paths.cafile, paths.capath)
print('fine')
""")  # fmt: skip
    assert ran.log == "fine\n", ran


def test_an_address_without_a_gateway_is_not_the_harnesss_fault(own_open_box: Box) -> None:
    job = own_open_box.job("print(1)")
    ended = own_open_box.run_job(replace(job, gateway=GatewayAddress(job.work.parent / "none", {}))).ended
    assert ended.ending is Ending.NOT_STARTED
    assert ended.detail == f"the model gateway has no socket at {job.work.parent / 'none'}"


def test_the_end_comes_with_the_harness_and_not_with_the_relay(own_open_box: Box) -> None:
    ran = through(own_open_box, "client = socket.create_connection((HOST, int(PORT))); os._exit(3)")
    assert ran.ended.ending is Ending.EXITED and ran.ended.exit_code == 3
    assert ran.ended.seconds < 3
    assert sandbox_processes() == []


def test_a_harness_has_no_child_that_it_did_not_make(own_open_box: Box) -> None:
    """One that waits for all of its children would wait for the relay for ever."""
    ran = through(own_open_box, """
try:
    os.wait()
except ChildProcessError:
    print('none')
""")  # fmt: skip
    assert ran.log == "none\n", ran


def test_a_harness_may_have_as_many_processes_as_without_a_gateway(open_box: Box) -> None:
    program = """
children = []
try:
    while True:
        child = os.fork()
        if child == 0:
            time.sleep(20)
        children.append(child)
except OSError:
    print(len(children))
"""
    limits = {"processes": 12, "seconds": 5}
    if open_box.who == "root" and open_box.name == "process" and not process.cgroups.can_create():
        pytest.skip("root's processes are not counted here")
    tries = 3 if open_box.who == "user" else 1  # what else a user starts meanwhile is counted too, so the most is right

    def most(run: Callable[[], Ran]) -> int:
        counts = []
        for _ in range(tries):
            if open_box.who == "user":  # the kernel counts a user's processes until they are reaped
                wait_until(lambda: open_box.uid not in {one.info["uids"].real for one in psutil.process_iter(["uids"])})
            ran = run()
            assert ran.log, ran
            counts.append(int(ran.log))
        return max(counts)

    with_it = most(lambda: through(open_box, program, **limits))
    without = most(lambda: open_box.run(f"import os, time\n{program}", **limits))
    assert with_it == without


def test_a_harness_that_kills_what_it_can_hurts_itself_only(own_open_box: Box) -> None:
    ran = through(own_open_box, """
os.kill(-1, 9)
try:
    print(ask('GET', '/hello'))
except OSError as error:
    print('no socket any more')
""", seconds=10)  # fmt: skip
    assert ran.ended.ending is Ending.EXITED, ran
    assert ran.log in ("b'hello'\n", "no socket any more\n")


def test_the_relay_holds_nothing_of_the_supervisors_and_cannot_be_looked_into(open_box: Box, secret: str) -> None:
    with serve(TOKEN="for-this-run-only") as address, pytest.MonkeyPatch.context() as patch:
        patch.setenv("OPENAI_API_KEY", secret)
        ran = open_box.run_job(with_address(open_box, """
import glob
print(sorted(os.environ.items()))
for pid in [*range(1, 4000), os.getppid(), 'self']:
    for name in ('environ', 'cmdline', 'maps'):
        try:
            print(pid, name, open(f'/proc/{pid}/{name}', 'rb').read(100000))
        except OSError:
            pass
for path in glob.glob('/proc/[0-9]*/fd/*') + glob.glob('/sandbox/**', recursive=True):
    try:
        print(path, os.read(os.open(path, os.O_RDONLY | os.O_NONBLOCK), 100000)[:10000])
    except OSError:
        pass
for pid in range(1, 4000):
    if pid != os.getpid():
        try:
            open(f'/proc/{pid}/mem', 'rb+').close(); print('MEMORY OF', pid)
        except OSError:
            pass
""", address))  # fmt: skip
    assert ran.ended.exit_code == 0, ran
    assert secret not in ran.log and "('TOKEN', 'for-this-run-only')" in ran.log
    assert os.fspath(address.socket) not in ran.log
    if open_box.name == "process":  # where the relay may do more than the harness
        assert "MEMORY OF" not in ran.log


def test_the_runner_killed_with_sigkill_leaves_no_relay(open_box: Box) -> None:
    with serve() as address:
        job = with_address(open_box, """
client = socket.create_connection((HOST, int(PORT)))
open('running', 'w').close()
time.sleep(100)
""", address, seconds=60)  # fmt: skip
        command = open_box.remote_command()
        with subprocess.Popen(command, stdin=subprocess.PIPE, text=True, stdout=subprocess.PIPE) as runner:
            json.dump(open_box.to_json(job), runner.stdin)
            runner.stdin.close()
            wait_until(lambda: (job.work / "running").exists())
            relays = relays_of(job)
            runner.send_signal(signal.SIGKILL)
            runner.wait()
        wait_until(lambda: not sandbox_processes() and not any(Path(f"/proc/{pid}").exists() for pid in relays))
        assert relays


def relays_of(job: SandboxJob) -> list[int]:
    """They wait in epoll, which neither the supervisor nor the harness of these tests does."""
    below = processes_inside(job)
    return [
        one.pid for one in below if any("eventpoll" in os.readlink(fd) for fd in Path(f"/proc/{one.pid}/fd").iterdir())
    ]


def test_a_supervisor_killed_with_sigkill_takes_the_relay_along(own_open_box: Box) -> None:
    with serve() as address:
        job = with_address(own_open_box, "open('running', 'w').close(); time.sleep(100)", address, seconds=60)

        def kill() -> None:
            wait_until(lambda: (job.work / "running").exists())
            relays.extend(relays_of(job))
            supervisor_of(job).kill()

        relays: list[int] = []
        thread = threading.Thread(target=kill)
        thread.start()
        own_open_box.run_job(job)
        thread.join()
        wait_until(lambda: not sandbox_processes() and not any(Path(f"/proc/{pid}").exists() for pid in relays))
        assert relays


def test_many_short_runs_after_another_find_the_same_port(own_open_box: Box) -> None:
    program = "print(PORT, ask('GET', '/hello'))"
    logs = [through(own_open_box, program).log for _ in range(3)]
    assert all("b'hello'" in log for log in logs)
    assert own_open_box.way == "loopback" or len(set(logs)) == 1


def test_the_way_to_a_gateway_is_checked_by_using_it() -> None:
    for sandbox in (Bubblewrap(), Process()):
        try:
            sandbox.check(with_gateway=True)
        except SandboxError as error:
            pytest.skip(f"NOT TESTED: {error}")


def test_a_machine_that_offers_no_way_is_refused_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "_relay_route", lambda: "")
    monkeypatch.setattr(process.landlock, "landlock_abi", lambda: 3)
    process._check.cache_clear()
    with pytest.raises(SandboxError) as refused:
        Process().check(with_gateway=True)
    process._check.cache_clear()
    assert str(refused.value) == (
        "the process sandbox cannot let a harness reach the model gateway alone: no network namespace can be made, "
        "and Landlock, ABI 3, cannot confine TCP (ABI 4, Linux 6.7); install bubblewrap"
    )


def test_the_hosts_loopback_is_named_among_the_gaps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "_relay_route", lambda: "loopback")
    assert "other programs can connect to it" in Process().gaps(with_gateway=True)[-1]
    assert "loopback" not in " ".join(Process().gaps())
    monkeypatch.setattr(process, "_relay_route", lambda: "namespace")
    assert Process().gaps(with_gateway=True) == Process().gaps()


def test_a_network_of_its_own_is_taken_where_it_can_be_made() -> None:
    assert process._relay_route() == ("namespace" if process._can_isolate() else "loopback")
