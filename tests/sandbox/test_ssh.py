"""sandbox=ssh against a real sshd in a network namespace of its own: attacks, limits, gateway, and a lost host."""

import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from sia_runner.sandbox.protocol import Ending, Sandbox, SandboxError, SandboxResult
from sia_runner.sandbox.remote import Ssh
from tests.sandbox import test_gateway_access as gateway_access
from tests.sandbox import test_limits as limits
from tests.sandbox import test_network_and_others as network
from tests.sandbox import test_secrets as secrets
from tests.sandbox import test_writes as writes
from tests.sandbox.conftest import ENTRY, Box, sandbox_processes, wait_until
from tests.sandbox.gateway import serve

pytestmark = pytest.mark.slow

_CONFIGURATION = """
ListenAddress {address}
HostKey {folder}/host_key
AuthorizedKeysFile {folder}/identity.pub
StrictModes no
UsePAM no
PermitRootLogin prohibit-password
PasswordAuthentication no
KbdInteractiveAuthentication no
PidFile none
"""


@dataclass
class Host:
    """A namespace that stands for another machine: an sshd in it, reached by one cable."""

    name: str
    folder: Path
    address: str
    sshd: "subprocess.Popen[bytes]"

    @property
    def jobs(self) -> Path:
        return self.folder / "jobs"

    def sandbox(self, **keys: object) -> Ssh:
        wanted = {
            "host": self.address,
            "user": "root",
            "port": 22,
            "identity": os.fspath(self.folder / "identity"),
            "known_hosts": os.fspath(self.folder / "known_hosts"),
            "python": sys.executable,
            "folder": os.fspath(self.jobs),
            "backend": "bubblewrap",
        }
        return Ssh(**{**wanted, **keys})  # type: ignore[arg-type]

    def cable(self, state: str) -> None:
        subprocess.run(["ip", "link", "set", f"{self.name}h", state], check=True)


@pytest.fixture(scope="session")
def host() -> Iterator[Host]:
    sshd = shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin")
    if os.geteuid() != 0 or not sshd or not all(map(shutil.which, ("ip", "ssh", "bwrap"))):
        pytest.skip("NOT TESTED: needs root, sshd (Debian: openssh-server), ip, ssh and bubblewrap")
    number = os.getpid() % 16000
    name, net = f"sia{number}", f"10.213.{number // 64}.{number % 64 * 4}"
    near, far = (f"{net.rpartition('.')[0]}.{int(net.rpartition('.')[2]) + n}" for n in (1, 2))
    folder = Path("/var/tmp") / f"sia-ssh-{number}"
    try:
        subprocess.run(["ip", "netns", "add", name], check=True, capture_output=True)
    except subprocess.CalledProcessError as error:
        pytest.skip(f"NOT TESTED: no network namespace can be made: {error.stderr.decode().strip()}")
    process = None
    try:
        for words in (
            f"link add {name}h type veth peer name {name}n netns {name}",
            f"address add {near}/30 dev {name}h",
            f"link set {name}h up",
            f"-n {name} address add {far}/30 dev {name}n",
            f"-n {name} link set {name}n up",
            f"-n {name} link set lo up",
        ):
            subprocess.run(["ip", *words.split()], check=True)
        Path("/run/sshd").mkdir(exist_ok=True)
        (folder / "jobs").mkdir(parents=True)
        for key in ("identity", "host_key", "other_key"):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / key], check=True)
        (folder / "known_hosts").write_text(f"{far} {(folder / 'host_key.pub').read_text()}")
        (folder / "wrong_hosts").write_text(f"{far} {(folder / 'other_key.pub').read_text()}")
        (folder / "sshd_config").write_text(_CONFIGURATION.format(address=far, folder=folder))
        command = ["ip", "netns", "exec", name, sshd, "-D", "-e", "-f", os.fspath(folder / "sshd_config")]
        process = subprocess.Popen(command, stderr=(folder / "log").open("wb"))
        wait_until(lambda: b"listening" in (folder / "log").read_bytes(), 20)
        yield Host(name, folder, far, process)
    finally:
        if process:
            process.kill()
            process.wait()
        subprocess.run(["ip", "link", "delete", f"{name}h"], check=False, capture_output=True)
        subprocess.run(["ip", "netns", "delete", name], check=False)
        shutil.rmtree(folder, ignore_errors=True)


class SshBox(Box):
    """A box whose sandbox is on the host."""

    host: Host

    @property
    def sandbox(self) -> Sandbox:
        return self.host.sandbox()


@pytest.fixture(scope="session")
def ssh(host: Host, public_home: Path) -> Box:
    box = SshBox("ssh", "root", public_home, [], os.geteuid())
    box.host = host
    return box


@pytest.fixture(autouse=True)
def no_orphans() -> Iterator[None]:
    """No process of any test outlives it for long: what serves a connection ends just after the connection."""
    yield
    wait_until(lambda: not sandbox_processes())


def test_the_host_is_checked_and_described(host: Host) -> None:
    sandbox = host.sandbox()
    sandbox.check(with_gateway=True)
    gaps = sandbox.gaps(with_gateway=True)
    assert f"root@{host.address}" in gaps[0] and any("kernel" in gap for gap in gaps[1:])
    assert sandbox.versions()["host"] == f"root@{host.address}" and sandbox.versions()["backend"] == "bubblewrap"
    assert list(host.jobs.iterdir()) == []


def test_files_go_there_and_come_back(ssh: Box, host: Host) -> None:
    job = ssh.job("""
        import os
        from pathlib import Path
        print(Path('before').read_text(), Path('/sandbox/data/questions.csv').read_text())
        os.makedirs('a/b')
        Path('a/b/c').write_bytes(bytes(range(256)) * 1000)
        Path('before').unlink()
        os.symlink('/etc/passwd', 'link')
        os.mkfifo('pipe')
        Path('closed').write_text('x'); os.chmod('closed', 0)
    """)
    (job.work / "before").write_text("as it was")
    ran = ssh.run_job(job)
    assert ran.ended.ending is Ending.EXITED and ran.ended.exit_code == 0, ran
    assert ran.log == "as it was id,text\n1,what?\n\n"
    left = {path.relative_to(ran.work).as_posix() for path in ran.work.rglob("*")}
    assert left - {"closed"} == {"a", "a/b", "a/b/c"}
    assert (ran.work / "a" / "b" / "c").read_bytes() == bytes(range(256)) * 1000
    assert sorted(path.name for path in ran.home.iterdir()) == ["data", "harness", "stdout.log", "work"]
    assert list(host.jobs.iterdir()) == []


@pytest.mark.parametrize(
    "attack",
    [
        writes.test_nothing_outside_work_can_be_changed,
        secrets.test_files_of_the_host_cannot_be_read,
        secrets.test_the_process_list_of_the_host_is_hidden,
        network.test_other_processes_cannot_be_killed_traced_or_limited,
        network.test_the_kernels_dangerous_calls_are_refused,
        network.test_no_capability_is_left,
        limits.test_a_deadline_ends_a_tree_that_ignores_signals_and_hides_in_sessions_of_its_own,
        limits.test_a_grandchild_that_holds_the_output_does_not_hold_up_the_end,
        limits.test_a_fork_bomb_is_bounded_and_ends,
        limits.test_memory_of_many_processes_is_summed,
        limits.test_one_file_is_bounded,
        limits.test_hiding_files_in_an_unreadable_folder_counts_as_full,
        gateway_access.test_nothing_else_is_reachable,
        gateway_access.test_the_gateway_answers_from_the_first_moment_on,
        gateway_access.test_64_requests_at_the_same_time_all_get_their_own_answer,
    ],
    ids=lambda attack: attack.__name__.removeprefix("test_"),
)
def test_nothing_succeeds_there_that_is_refused_here(attack: Callable[[Box], None], ssh: Box, host: Host) -> None:
    attack(ssh)
    assert list(host.jobs.iterdir()) == []


def test_gold_answers_and_the_runners_environment_stay_here(
    ssh: Box, secret: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    secrets.test_gold_answers_beside_the_view_cannot_be_read(ssh, secret)
    secrets.test_the_runners_environment_is_nowhere_visible(ssh, secret, monkeypatch)


def test_no_network_of_host_or_runner_can_be_reached(ssh: Box, host: Host) -> None:
    ran = ssh.run(f"""
        import socket
        for address in (('{host.address}', 22), ('127.0.0.1', 22), ('1.1.1.1', 53)):
            try:
                socket.create_connection(address, 2); print('DONE', address)
            except OSError as error:
                print(error)
        for path in ('/sandbox/gateway.sock', '{host.jobs}'):
            try:
                socket.socket(socket.AF_UNIX).connect(path); print('DONE', path)
            except OSError as error:
                print(error)
    """)
    assert ran.ended.exit_code == 0 and "DONE" not in ran.log, ran


def test_files_with_holes_count_with_their_size(ssh: Box) -> None:
    ran = ssh.run("""
        for number in range(10):
            with open(str(number), 'wb') as file:
                file.truncate(30 << 20)
    """)
    assert ran.ended.ending is Ending.DISK_FULL and list(ran.work.iterdir()) == [], ran


def run_beside(box: Box, job: object, act: Callable[[], None]) -> SandboxResult:
    """Run a job, and act once its harness works there."""

    def wait() -> None:
        wait_until(lambda: any(ENTRY in line for line in sandbox_processes()))
        act()

    thread = threading.Thread(target=wait)
    thread.start()
    ended = box.run_job(job).ended  # type: ignore[arg-type]
    thread.join()
    return ended


ENDLESS = """
    import os, signal, time
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if os.fork() == 0:
        os.setsid()
    open('half', 'w').write('an answer')
    while True:
        time.sleep(1)
"""


def test_a_cable_that_is_cut_is_not_the_harnesss_fault(ssh: Box, host: Host) -> None:
    job = ssh.job(ENDLESS, seconds=300)
    (job.work / "before").write_text("x")
    began = time.monotonic()
    try:
        ended = run_beside(ssh, job, lambda: host.cable("down"))
        assert ended.ending is Ending.NOT_STARTED and time.monotonic() - began < 60
        assert ended.detail.startswith(f"root@{host.address}: ") and "\n" not in ended.detail
        assert [path.name for path in job.work.iterdir()] == ["before"]
        wait_until(lambda: not sandbox_processes() and not list(host.jobs.iterdir()))  # the host notices by itself
    finally:
        host.cable("up")
    assert ssh.run("print('again')").log == "again\n"


def sessions(host: Host) -> list[psutil.Process]:
    return psutil.Process(host.sshd.pid).children()


def test_a_server_that_is_killed_is_not_the_harnesss_fault(ssh: Box, host: Host) -> None:
    def kill() -> None:
        for process in [one for session in sessions(host) for one in (session, *session.children())]:
            if "sshd" in process.name():
                process.kill()

    ended = run_beside(ssh, ssh.job(ENDLESS, seconds=300), kill)
    assert ended.ending is Ending.NOT_STARTED and ended.detail.startswith(f"root@{host.address}: "), ended
    wait_until(lambda: not sandbox_processes() and not list(host.jobs.iterdir()))


def far_ends() -> list[psutil.Process]:
    """The programs on the host: Python's own, not the shell that a server starts it with."""
    return [
        one
        for one in psutil.process_iter(["cmdline", "exe"])
        if "from sia_runner.sandbox.host import main" in " ".join(one.info["cmdline"] or [])
        and "python" in (one.info["exe"] or "")
    ]


def test_a_far_end_that_is_killed_leaves_no_process_and_its_folder_to_the_next(ssh: Box, host: Host) -> None:
    ended = run_beside(ssh, ssh.job(ENDLESS, seconds=300), lambda: [one.kill() for one in far_ends()] and None)
    assert ended.ending is Ending.NOT_STARTED, ended
    wait_until(lambda: not sandbox_processes())
    assert len(list(host.jobs.iterdir())) == 1
    assert ssh.run("print('next')").log == "next\n"
    assert list(host.jobs.iterdir()) == []


def test_the_runner_killed_with_sigkill_leaves_nothing_on_the_host(ssh: Box, host: Host) -> None:
    job = ssh.job(ENDLESS, seconds=300)
    program = """
        import json, sys
        from pathlib import Path
        from sia_runner.records import GatewayAddress
        from sia_runner.sandbox.protocol import SandboxJob, SandboxLimits
        from sia_runner.sandbox.remote import Ssh
        keys, job, address = json.load(sys.stdin)
        limits, entry, env = SandboxLimits(**job.pop('limits')), job.pop('entry'), job.pop('env')
        job.pop('gateway')
        paths = {name: Path(path) for name, path in job.items()}
        Ssh(**keys).run(SandboxJob(entry=entry, limits=limits, gateway=GatewayAddress(Path(address), {}), **paths))
    """
    keys = {
        "host": host.address, "user": "root", "port": 22, "python": sys.executable, "folder": os.fspath(host.jobs),
        "identity": os.fspath(host.folder / "identity"), "known_hosts": os.fspath(host.folder / "known_hosts"),
        "backend": "bubblewrap",
    }  # fmt: skip
    command = [sys.executable, "-c", textwrap.dedent(program)]
    with serve() as address, subprocess.Popen(command, stdin=subprocess.PIPE, text=True) as runner:
        json.dump([keys, Box.to_json(job), os.fspath(address.socket)], runner.stdin)
        runner.stdin.close()
        wait_until(lambda: any(ENTRY in line for line in sandbox_processes()))
        runner.send_signal(signal.SIGKILL)
        runner.wait()
        wait_until(lambda: not sandbox_processes() and not list(host.jobs.iterdir()), 20)


def test_a_host_key_that_changed_is_refused(host: Host) -> None:
    with pytest.raises(SandboxError) as refused:
        host.sandbox(known_hosts=os.fspath(host.folder / "wrong_hosts")).check()
    assert "host key" in str(refused.value) and "wrong_hosts" in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"python": "/nowhere/python3"}, "sandbox.python=/nowhere/python3"),
        ({"port": 9}, "refused"),
        ({"folder": "/nowhere/jobs"}, "/nowhere/jobs"),
        ({"user": "nobody"}, ""),
    ],
)
def test_a_host_that_cannot_be_used_is_refused_in_one_line(host: Host, keys: dict, words: str) -> None:
    with pytest.raises(SandboxError) as refused:
        host.sandbox(**keys).check(with_gateway=True)
    assert words in str(refused.value) and "\n" not in str(refused.value)
    assert host.address in str(refused.value)


def test_a_host_without_bubblewrap_is_refused_unless_the_configuration_allows_less(host: Host) -> None:
    python = host.folder / "python-alone"
    python.write_text(f'#!/bin/sh\nPATH=/nowhere exec {sys.executable} "$@"\n')
    python.chmod(0o755)
    with pytest.raises(SandboxError) as refused:
        host.sandbox(python=os.fspath(python)).check()
    assert "bubblewrap is not installed" in str(refused.value)
    weaker = host.sandbox(python=os.fspath(python), backend="auto")
    weaker.check(with_gateway=True)
    assert weaker.versions()["backend"] == "process"


def test_a_run_is_made_on_the_host(host: Host, tmp_path: Path) -> None:
    keys = {
        "host": host.address, "user": "root", "python": sys.executable, "folder": host.jobs,
        "identity": host.folder / "identity", "known_hosts": host.folder / "known_hosts",
    }  # fmt: skip
    command = [sys.executable, "-m", "sia_runner", "task=smoke", "sandbox=ssh", "max_gen=1"]
    command += [f"hydra.run.dir={tmp_path / 'run'}", *(f"sandbox.{name}={value}" for name, value in keys.items())]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    sandbox = json.loads((tmp_path / "run" / "lock.json").read_text())["sandbox"]
    assert (sandbox["name"], sandbox["host"], sandbox["backend"]) == ("ssh", f"root@{host.address}", "bubblewrap")
