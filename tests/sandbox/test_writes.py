"""A harness changes its work folder. Nothing else, by any path."""

import os
import textwrap
from pathlib import Path

from tests.sandbox.conftest import Box

WRITE = """
    import os, sys, shutil, tempfile
    from pathlib import Path
    data, work = Path(sys.argv[2]), Path(sys.argv[4])
    harness = Path(__file__).parent
    host = Path({host!r})
    def attempt(what, act):
        try:
            act()
            print('DONE', what)
        except OSError as error:
            print(what, error.errno)
    attempt('host', lambda: (host / 'planted').write_text('x'))
    attempt('host file', lambda: (host / 'precious').write_text('x'))
    attempt('truncate', lambda: os.truncate(host / 'precious', 0))
    attempt('delete', lambda: os.unlink(host / 'precious'))
    attempt('rename out', lambda: os.rename(host / 'precious', work / 'mine'))
    attempt('rename in', lambda: [Path('own').write_text('x'), os.rename('own', host / 'planted')])
    attempt('hard link', lambda: [os.link(host / 'precious', work / 'hard'), (work / 'hard').write_text('x')])
    attempt('link own', lambda: [Path('own2').write_text('x'), os.link('own2', host / 'planted2')])
    attempt('dot dot', lambda: (work / '..' / 'planted').write_text('x'))
    attempt('through link', lambda: [Path('out').symlink_to(host), (Path('out') / 'planted').write_text('x')])
    attempt('proc', lambda: (Path('/proc/self/cwd/..') / 'planted').write_text('x'))
    attempt('replace work', lambda: [os.rename(work, str(work) + '.old'), os.mkdir(work)])
    attempt('remove work', lambda: os.rmdir(work))
    attempt('lock', lambda: (work / '..' / '.work.lock').write_text('x'))
    attempt('data', lambda: (data / 'questions.csv').write_text('x'))
    attempt('new data', lambda: (data / 'train.csv').write_text('x'))
    attempt('harness', lambda: Path(__file__).write_text('x'))
    attempt('new module', lambda: (harness / 'sitecustomize.py').write_text('x'))
    attempt('standard library', lambda: Path(os.__file__).write_text('x'))
    attempt('new in library', lambda: (Path(os.__file__).parent / 'planted.py').write_text('x'))
    attempt('interpreter', lambda: Path(os.path.realpath(sys.executable)).write_bytes(b'x'))
    for folder in ('/', '/usr', '/usr/lib', '/etc', '/root', '/var/tmp', '/dev', '/sandbox', '/sys', '/run', '/home'):
        attempt(folder, lambda: (Path(folder) / 'planted-by-sia-test').write_text('x'))
    attempt('mode', lambda: os.chmod(host / 'precious', 0o777))
    attempt('device', lambda: os.mknod('disk', 0o60666, os.makedev(254, 0)))
    attempt('remount', lambda: os.system('mount -o remount,rw / 2>/dev/null') and (_ for _ in ()).throw(OSError(1)))
"""


def test_nothing_outside_work_can_be_changed(box: Box) -> None:
    job = box.job("")
    host = job.work.parent / "precious-things"
    host.mkdir()
    (host / "precious").write_text("precious")
    (host / "precious").chmod(0o600)
    for path in (host, host / "precious"):
        os.chown(path, box.uid, box.uid)
    program = textwrap.dedent(WRITE.format(host=str(host)))
    (job.harness / job.entry).write_text(program)
    ran = box.run_job(job)
    assert ran.ended.exit_code == 0, ran.log
    # the process sandbox makes chmod a no-op for a user's own files instead of refusing it: shutil.copy calls it
    done = [line for line in ran.log.splitlines() if line.startswith("DONE") and line != "DONE mode"]
    assert done == []
    assert [path.name for path in host.iterdir()] == ["precious"]
    assert (host / "precious").read_text() == "precious"
    assert (host / "precious").stat().st_mode & 0o777 == 0o600
    assert (job.harness / job.entry).read_text() == program
    # the lock lies where the sandbox works, which may be another machine
    assert {path.name for path in ran.home.iterdir()} - {".work.lock"} == {
        "data", "harness", "precious-things", "stdout.log", "work"}  # fmt: skip
    assert not list(Path("/").glob("*/planted-by-sia-test"))


def test_work_is_given_back_to_its_owner(box: Box) -> None:
    """With every file readable for it, folders that can be removed, and no setuid program in it."""
    ran = box.run("""
        import os
        os.makedirs('a/b'); open('a/b/file', 'w').write('x'); os.symlink('/etc/passwd', 'link')
        open('program', 'w').close(); os.chmod('program', 0o4755)
        os.mkdir('shut'); os.chmod('shut', 0)
    """)
    assert ran.ended.exit_code == 0, ran.log
    for path in (ran.work, *ran.work.rglob("*")):
        info = path.lstat()
        assert info.st_uid == box.uid, path
        assert info.st_mode & 0o6000 == 0, path
    assert (ran.work / "shut").stat().st_mode & 0o700 == 0o700
    assert Path("/etc/passwd").stat().st_uid == 0


def test_ordinary_file_work_is_possible(box: Box) -> None:
    ran = box.run("""
        import os, shutil, subprocess, sys, tempfile
        from pathlib import Path
        os.makedirs('a/b'); Path('a/b/c').write_text('x'); shutil.copy('a/b/c', 'd'); shutil.copytree('a', 'e')
        os.replace('d', 'f'); os.link('f', 'g'); shutil.rmtree('a'); Path('f').touch()
        with tempfile.TemporaryDirectory() as folder:
            Path(folder, 'x').write_text('y')
        print(subprocess.run([sys.executable, '-c', 'print(6 * 7)'], capture_output=True, text=True).stdout)
        subprocess.run('echo shell | tr a-z A-Z > shell', shell=True, check=True)
    """)
    assert ran.ended.exit_code == 0, ran.log
    assert sorted(path.name for path in ran.work.iterdir()) == ["e", "f", "g", "shell"]
