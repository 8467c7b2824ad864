"""A harness reaches no network, and no process but its own."""

import json
import os
import signal
import socket
import subprocess
import threading
import time

import pytest

from sia_runner.sandbox.protocol import Ending
from tests.sandbox.conftest import Box, wait_until


@pytest.fixture
def listeners() -> "list[tuple[str, object]]":
    with (
        socket.create_server(("127.0.0.1", 0)) as tcp,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp,
        socket.socket(socket.AF_UNIX) as abstract,
    ):
        udp.bind(("127.0.0.1", 0))
        abstract.bind(f"\0sia-test-{os.getpid()}")  # one a test process
        abstract.listen()
        yield [("tcp", tcp.getsockname()[1]), ("udp", udp.getsockname()[1])]
        for listener in (tcp, udp, abstract):
            listener.settimeout(0.05)
        for accept in (tcp.accept, lambda: udp.recv(10), abstract.accept):
            with pytest.raises(TimeoutError):
                accept()


def test_no_network_can_be_reached(box: Box, listeners: "list[tuple[str, object]]") -> None:
    ports = dict(listeners)
    ran = box.run(
        f"""
        import socket
        def attempt(what, act):
            try:
                act(); print('DONE', what)
            except OSError as error:
                print(what, error)
        def udp(address):
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
                s.settimeout(0.3); s.sendto(b'hello', address); s.recv(10)
        attempt('tcp', lambda: socket.create_connection(('127.0.0.1', {ports["tcp"]}), 2))
        attempt('out', lambda: socket.create_connection(('1.1.1.1', 53), 2))
        attempt('out6', lambda: socket.create_connection(('2606:4700:4700::1111', 53), 2))
        attempt('udp', lambda: udp(('127.0.0.1', {ports["udp"]})))
        attempt('dns', lambda: socket.getaddrinfo('example.org', 443))
        attempt('abstract', lambda: socket.socket(socket.AF_UNIX).connect(chr(0) + 'sia-test-{os.getpid()}'))
        attempt('dbus', lambda: socket.socket(socket.AF_UNIX).connect('/run/dbus/system_bus_socket'))
        for family in (17, 38, 40, 44, 15):  # packet, alg, vsock, xdp, key
            attempt(f'family {{family}}', lambda: socket.socket(family, socket.SOCK_RAW))
        attempt('raw', lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, 1))
    """,
        seconds=30,
    )
    assert ran.ended.exit_code == 0, ran.log
    assert "DONE" not in ran.log


def test_a_socket_pair_still_works(box: Box) -> None:
    ran = box.run("import socket; a, b = socket.socketpair(); a.send(b'hi'); print(b.recv(2).decode())")
    assert ran.log == "hi\n"


def test_other_processes_cannot_be_killed_traced_or_limited(box: Box) -> None:
    """The victim belongs to the same user as the runner, as everything of a person on a cluster does."""
    drop = (
        ["setpriv", f"--reuid={box.uid}", f"--regid={box.uid}", "--clear-groups"]
        if box.who == "user" and box.command
        else []
    )
    with subprocess.Popen([*drop, "sleep", "60"]) as victim:
        time.sleep(0.05)
        ran = box.run(f"""
            import ctypes, os, resource, signal
            libc = ctypes.CDLL(None, use_errno=True)
            def attempt(what, act):
                try:
                    result = act()
                    print('DONE' if result in (0, None) else 'no', what)
                except (OSError, PermissionError, ProcessLookupError, ValueError) as error:
                    print(what, error)
            for pid in ({victim.pid}, os.getppid(), {os.getpid()}):
                if pid > 1:
                    for number in (0, signal.SIGTERM, signal.SIGKILL, signal.SIGSTOP):
                        attempt(f'kill {{pid}} {{number}}', lambda: os.kill(pid, number))
                    attempt(f'pidfd {{pid}}', lambda: signal.pidfd_send_signal(os.pidfd_open(pid), signal.SIGKILL))
                    attempt(f'trace {{pid}}', lambda: libc.ptrace(16, pid, 0, 0))
                    attempt(f'prlimit {{pid}}', lambda: libc.prlimit(pid, 0, (ctypes.c_uint64 * 2)(1, 1), None))
                    attempt(f'nice {{pid}}', lambda: os.setpriority(os.PRIO_PROCESS, pid, 19))
                    attempt(f'memory {{pid}}', lambda: open(f'/proc/{{pid}}/mem', 'rb+').close())
            attempt('all of the user', lambda: os.setpriority(os.PRIO_USER, os.getuid(), 19))
            os.kill(-1, 9)  # reports success although it reached nobody
        """)
        alive = victim.poll() is None
        niceness = os.getpriority(os.PRIO_PROCESS, victim.pid)
        victim.kill()
    assert alive and niceness == os.getpriority(os.PRIO_PROCESS, 0)
    assert ran.ended.ending is Ending.EXITED, ran
    assert "DONE" not in ran.log


def test_the_kernels_dangerous_calls_are_refused(box: Box) -> None:
    ran = box.run("""
        import ctypes, os, platform
        libc = ctypes.CDLL(None, use_errno=True)
        x86 = platform.machine() == 'x86_64'
        calls = {'unshare user': (272 if x86 else 97, 0x10000000), 'unshare net': (272 if x86 else 97, 0x40000000),
                 'mount': (165 if x86 else 40, 0, 0, 0, 0, 0), 'bpf': (321 if x86 else 280, 0, 0, 0),
                 'io_uring': (425, 1, 0),
                 'userfaultfd': (323 if x86 else 282, 0), 'keyctl': (250 if x86 else 219, 0, 0),
                 'perf': (298 if x86 else 241, 0, 0, 0, 0, 0), 'memfd': (319 if x86 else 279, b'x', 0),
                 'open_by_handle_at': (304 if x86 else 265, 0, 0, 0), 'clone3': (435, 0, 0),
                 'clone user': (56 if x86 else 220, 0x10000000 | 17, 0, 0, 0, 0),
                 'setuid': (105 if x86 else 146, 0)}
        for name, (number, *arguments) in calls.items():
            words = [ctypes.c_long(a) if isinstance(a, int) else a for a in arguments]
            result = libc.syscall(ctypes.c_long(number), *words)
            if name.startswith('clone user') and result == 0:
                os._exit(0)
            print(name, result, os.strerror(ctypes.get_errno()))
            ok = result < 0 and ctypes.get_errno() in (1, 22, 38)
            if not ok and not (name == 'setuid' and os.getuid() == 0):
                print('ALLOWED', name)
    """)
    assert ran.ended.exit_code == 0, ran.log
    assert "ALLOWED" not in ran.log, ran.log


def test_no_capability_is_left(box: Box) -> None:
    ran = box.run("""
        import ctypes
        data = (ctypes.c_uint32 * 6)()
        ctypes.CDLL(None).capget((ctypes.c_uint32 * 2)(0x20080522, 0), data)
        print(sum(data), ctypes.CDLL(None).prctl(39, 0, 0, 0, 0))  # PR_GET_NO_NEW_PRIVS
    """)
    assert ran.log.split() == ["0", "1"]


def test_the_runner_killed_with_sigkill_leaves_no_process(box: Box) -> None:
    """At once: the harness, its setsid'ed children and the supervisor end although nobody told them to."""
    job = box.job(
        """
        import os, signal, time
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        for _ in range(3):
            if os.fork() == 0:
                os.setsid()
                if os.fork() == 0:
                    time.sleep(100)
        open('running', 'w').close()
        time.sleep(100)
    """,
        seconds=60,
        memory_mb=512,
    )
    with subprocess.Popen(box.remote_command(), stdin=subprocess.PIPE, text=True, stdout=subprocess.PIPE) as runner:
        json.dump(box.to_json(job), runner.stdin)
        runner.stdin.close()
        wait_until(lambda: (job.work / "running").exists())
        runner.send_signal(signal.SIGKILL)
        runner.wait()
        # a resumed runner may start the same step again at once: it waits until the old one is gone
        (job.work / "running").unlink(missing_ok=True)
        (job.harness / job.entry).write_text("print('second')")
        again = box.run_job(job)
    assert again.log == "second\n"


def test_an_exception_in_the_runner_stops_the_sandbox(own_box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C reaches the runner alone (the sandbox has a session of its own), and it takes the sandbox with it."""
    job = own_box.job("import time; open('running', 'w').close(); time.sleep(100)")

    def interrupt() -> None:
        wait_until(lambda: (job.work / "running").exists())
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        own_box.run_job(job)
    thread.join()
    assert time.monotonic() - start < 10


def test_several_threads_run_sandboxes_at_the_same_time(own_box: Box) -> None:
    jobs = [own_box.job(f"print({n} * 11)") for n in range(6)]
    ran = {}
    threads = [
        threading.Thread(target=lambda n=n, job=job: ran.update({n: own_box.run_job(job)}))
        for n, job in enumerate(jobs)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [ran[n].log for n in range(6)] == [f"{n * 11}\n" for n in range(6)]
