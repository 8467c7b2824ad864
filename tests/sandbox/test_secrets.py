"""A harness reads its own code, its data and Python. Nothing else."""

import os
import socket
import textwrap
from pathlib import Path

import pytest

from tests.sandbox.conftest import Box

READ_GOLD = """
    import os, sys, glob
    from pathlib import Path
    data, work = Path(sys.argv[2]), Path(sys.argv[4])
    host = {host!r}
    tries = [host, data / '../private/gold.csv', work / '../private/gold.csv', 'private/gold.csv',
             '../private/gold.csv',
             f'/proc/self/cwd/../private/gold.csv', f'/proc/1/root{{host}}', f'/proc/{{os.getppid()}}/root{{host}}',
             f'/proc/self/root{{host}}', f'/proc/{{os.getppid()}}/cwd/private/gold.csv']
    tries += glob.glob('/proc/[0-9]*/fd/*') + [f'/proc/{{pid}}/environ' for pid in range(1, 400)]
    def attempt(what, act):
        try:
            print(what, act())
        except OSError as error:
            print(what, error.errno)
    for path in tries:
        attempt(path, lambda: os.read(os.open(path, os.O_RDONLY | os.O_NONBLOCK), 10000))
    attempt('symlink', lambda: [Path('link').symlink_to(host), Path('link').read_text()])
    attempt('hard link', lambda: [os.link(host, 'hard'), Path('hard').read_text()])
    attempt('rename', lambda: [os.rename(host, 'mine'), Path('mine').read_text()])
    attempt('directory', lambda: os.listdir(os.path.dirname(host)))
    attempt('walk up', lambda: [os.chdir('/'), open(os.open('.', os.O_PATH)).read()])
    for name in ('..', '../..', '/root', '/home', '/var'):
        attempt(name, lambda: os.listdir(work / name))
"""


def test_gold_answers_beside_the_view_cannot_be_read(box: Box, secret: str) -> None:
    job = box.job("")
    private = job.work.parent / "private"
    private.mkdir()
    (private / "gold.csv").write_text(secret)
    os.chown(private / "gold.csv", box.uid, box.uid)
    os.chown(private, box.uid, box.uid)
    (job.harness / job.entry).write_text(textwrap.dedent(READ_GOLD.format(host=str(private / "gold.csv"))))
    ran = box.run_job(job)
    assert ran.ended.exit_code == 0, ran.log
    assert secret not in ran.log
    assert not any(
        secret in path.read_text(errors="replace")
        for path in ran.work.rglob("*")
        if path.is_file() and not path.is_symlink()
    )
    assert (private / "gold.csv").read_text() == secret


def test_the_runners_environment_is_nowhere_visible(box: Box, secret: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_API_KEY", secret)
    ran = box.run("""
        import os
        print(sorted(os.environ.items()))
        for pid in [*range(1, 4000), os.getppid(), 'self', 'thread-self']:
            for name in ('environ', 'cmdline', 'mem', 'maps'):
                try:
                    print(pid, name, open(f'/proc/{pid}/{name}', 'rb').read(100000))
                except OSError:
                    pass
    """)
    assert ran.ended.exit_code == 0
    assert secret not in ran.log and "SECRET_API_KEY" not in ran.log


def test_files_of_the_host_cannot_be_read(box: Box) -> None:
    ran = box.run("""
        import os
        for path in ('/etc/shadow', '/etc/passwd', '/etc/hostname', '/root/.bashrc', '/var/log/dpkg.log', '/proc/kcore',
                     '/proc/1/environ', '/sys/kernel/debug', '/boot', '/dev/mem', '/dev/vda', '/dev/sda'):
            try:
                text = sorted(os.listdir(path)) if os.path.isdir(path) else open(path, 'rb').read(2000)
                print('READ', path, text)
            except OSError as error:
                print(path, error.errno)
    """)
    read = [line.split(" ", 2)[1:] for line in ran.log.splitlines() if line.startswith("READ")]
    assert box.name != "process" or read == []
    # bubblewrap and an image have files of these names, of their own
    own = [[path, text] for path, text in read if "sandbox:x:65534" in text or text in ("b''", "[]", r"b'sandbox\n'")]
    assert read == own


def test_the_process_list_of_the_host_is_hidden(box: Box) -> None:
    ran = box.run("""
        import os
        try:
            print(len([name for name in os.listdir('/proc') if name.isdecimal()]))
        except PermissionError:
            print(0)
    """)
    assert int(ran.log) <= 4


def test_a_harness_reads_its_own_modules_its_data_and_the_standard_library(box: Box) -> None:
    job = box.job(
        "import sys, helper, sqlite3, ssl, json; print(helper.VALUE, open(sys.argv[2] + '/questions.csv').read())"
    )
    (job.harness / "helper.py").write_text("VALUE = 41 + 1\n")
    os.chown(job.harness / "helper.py", box.uid, box.uid)
    ran = box.run_job(job)
    assert ran.log.split() == ["42", "id,text", "1,what?"], ran.log


def test_what_a_umask_keeps_private_is_still_read_by_its_harness(box: Box) -> None:
    """Root's harness runs as another user; mkdtemp and a umask of 077 must not make it fail."""
    job = box.job("import sys; print(open(sys.argv[2] + '/questions.csv').read())")
    for path in (job.harness, job.data):
        path.chmod(0o700)
        for file in path.iterdir():
            file.chmod(0o600)
    ran = box.run_job(job)
    assert "what?" in ran.log
    assert (job.data / "questions.csv").stat().st_mode & 0o777 == 0o600
    assert not list(job.work.parent.glob(".work.shown"))


def test_a_run_directory_inside_the_python_installation_is_refused(
    own_box: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    if own_box.name == "docker":
        pytest.skip("a container has the Python of its image")
    job = own_box.job("print(1)")
    monkeypatch.setattr("sys.prefix", str(job.work.parent))
    ran = own_box.run_job(job)
    assert "which every harness can read" in ran.ended.detail


def test_a_sitecustomize_left_in_work_is_read_by_nobody(box: Box) -> None:
    """Neither the next harness, nor the supervisor, nor the runner: PYTHONPATH, cwd and user site play no part."""
    job = box.job("import os; print('fine', os.getcwd())")
    for name in ("sitecustomize.py", "usercustomize.py", "os.py", "json.py", "marshal.py", "sia_runner.py"):
        (job.work / name).write_text("import sys; print('PLANTED', __name__); sys.exit(99)\n")
        os.chown(job.work / name, box.uid, box.uid)
    ran = box.run_job(job)
    assert ran.ended.exit_code == 0 and ran.log.startswith("fine"), ran.log
    assert "PLANTED" not in ran.log


def test_inherited_descriptors_are_closed(own_box: Box, secret: str, tmp_path: Path) -> None:
    (tmp_path / "key").write_text(secret)
    with (tmp_path / "key").open() as file, socket.socket() as listener:
        os.set_inheritable(file.fileno(), True)
        os.set_inheritable(listener.fileno(), True)
        ran = own_box.run("""
            import os
            for fd in range(3, 256):
                try:
                    os.fstat(fd); print('OPEN', fd)
                except OSError:
                    pass
        """)
    assert ran.log == ""
