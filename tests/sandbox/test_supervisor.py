"""The small process over each sandbox: what happens when it dies, waits, or finds a hostile work folder."""

import contextlib
import os
import signal
import threading
from pathlib import Path

import psutil
import pytest

from sia_runner.sandbox import supervisor, workdir
from sia_runner.sandbox.protocol import Ending, SandboxJob
from tests.sandbox.conftest import Box, sandbox_processes, wait_until


def supervisor_of(job: SandboxJob) -> psutil.Process:
    """The one that holds the lock of this job's work folder: others of this machine may be at work too."""
    lock = os.fspath(job.work.with_name(f".{job.work.name}.lock"))
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):  # it may have ended just now
            supervises = "sia_runner.sandbox.supervisor" in " ".join(process.cmdline())
            if supervises and any(opened.path == lock for opened in process.open_files()):
                return process
    raise AssertionError("no supervisor found")


def processes_inside(job: SandboxJob) -> list[psutil.Process]:
    """All of the sandbox that this harness is in."""
    harness = _harness(job.entry)
    first = harness.parent() if "inside.py" in " ".join(harness.parent().cmdline()) else supervisor_of(job)
    return first.children(recursive=True)


def _harness(job_entry: str) -> psutil.Process:
    for process in psutil.process_iter(["cmdline"]):
        if job_entry in " ".join(process.info["cmdline"] or []) and "--dataset_dir" in (process.info["cmdline"] or []):
            return process
    raise AssertionError("the harness does not run")


def test_a_supervisor_killed_with_sigkill_takes_its_harness_along(box: Box) -> None:
    job = box.job("import time; open('running', 'w').close(); time.sleep(100)", seconds=90)

    def kill() -> None:
        wait_until(lambda: (job.work / "running").exists())
        supervisor_of(job).kill()

    thread = threading.Thread(target=kill)
    thread.start()
    ended = box.run_job(job).ended
    thread.join()
    assert ended.ending is Ending.NOT_STARTED
    assert ended.detail.startswith("the supervisor died")
    wait_until(lambda: not sandbox_processes())


def test_a_supervisor_that_is_told_to_stop_cleans_up_and_says_so(own_box: Box) -> None:
    """As SLURM does: SIGTERM for every process of a job."""
    job = own_box.job(
        "import time; print('here', flush=True); open('running', 'w').close(); time.sleep(100)", seconds=90
    )

    def stop() -> None:
        wait_until(lambda: (job.work / "running").exists())
        supervisor_of(job).terminate()

    thread = threading.Thread(target=stop)
    thread.start()
    ran = own_box.run_job(job)
    thread.join()
    assert ran.ended.ending is Ending.INTERRUPTED
    assert ran.log == "here\n"


def test_two_runs_of_one_work_folder_follow_each_other(own_box: Box) -> None:
    job = own_box.job("""
        import os, time
        assert not os.path.exists('busy')
        open('busy', 'w').close(); time.sleep(0.3); os.unlink('busy'); print('alone')
    """)
    logs: list[str] = []
    threads = [threading.Thread(target=lambda: logs.append(own_box.run_job(job).log)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert logs == ["alone\n", "alone\n"]


def test_a_deep_tree_and_odd_names_are_measured_and_given_back(box: Box) -> None:
    ran = box.run("""
        import os
        for _ in range(300):
            os.mkdir('d'); os.chdir('d')
        open('bottom', 'w').write('x')
        os.chdir(os.environ['HOME'])
        for name in (b'\\xff\\xfe', b'new\\nline', b'-rf', 'ü'.encode(), b'x' * 255):
            open(name, 'w').close()
        os.mkfifo('fifo')
    """)
    assert ran.ended.ending is Ending.EXITED and ran.ended.exit_code == 0, ran.log
    assert (ran.work / "/".join(["d"] * 300) / "bottom").read_text() == "x"
    assert all(path.lstat().st_uid == box.uid for path in ran.work.iterdir())


def test_temporary_files_of_a_harness_are_removed_however_deep(process: Box) -> None:
    ran = process.run("""
        import os
        os.chdir(os.environ['TMPDIR'])
        for _ in range(1100):
            os.mkdir('d'); os.chdir('d')
    """)
    assert ran.ended.ending is Ending.EXITED, ran
    assert list(ran.work.iterdir()) == []


def test_a_temporary_folder_replaced_by_a_link_does_not_lead_outside(process: Box) -> None:
    job = process.job("""
        import os
        os.rmdir(os.environ['TMPDIR']); os.symlink('../precious', os.environ['TMPDIR'])
    """)
    precious = job.work.parent / "precious"
    precious.mkdir()
    (precious / "file").write_text("precious")
    for path in (precious, precious / "file"):
        os.chown(path, process.uid, process.uid)
    for _ in range(2):  # a resumed run finds what the first one left
        assert process.run_job(job).ended.exit_code == 0
    assert (precious / "file").read_text() == "precious"


def test_a_nearly_full_disk_is_said_before_anything_starts(own_box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sia_runner.sandbox.driver._FREE", 1 << 62)
    ended = own_box.run("print(1)").ended
    assert ended.ending is Ending.NOT_STARTED
    assert "MiB are left on the disk of" in ended.detail


class KilledHarness:
    """A harness without a cgroup of its own that ended by SIGKILL, with this peak of memory in MiB."""

    def __init__(self, peak: int, group: object = None) -> None:
        self.code, self.group, self._peak = 128 + signal.SIGKILL, group, peak << 20

    def memory_killer(self) -> str:
        return ""

    def usage(self) -> tuple[float, int]:
        return 1.0, self._peak


@pytest.mark.parametrize(
    ("kills", "harness", "ending"),
    [
        (1, KilledHarness(99), "machine_out_of_memory"),
        (1, KilledHarness(101), "out_of_memory"),
        (0, KilledHarness(99), "exited"),  # by itself
        (1, KilledHarness(99, group=object()), "exited"),  # its group has no kill: another program's
    ],
)
def test_who_is_killed_below_its_limit_while_the_machine_is_out_of_memory_is_not_at_fault(
    kills: int, harness: KilledHarness, ending: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = tmp_path / "vmstat"
    counts.write_text("oom_kill 5\n")
    monkeypatch.setattr(supervisor, "_MACHINE_KILLS", (str(counts), "oom_kill"))
    (tmp_path / "work").mkdir()
    limits = {"memory": 100 << 20, "output": 1000, "seconds": 9.0, "disk": 1 << 20}
    plan = {"limits": limits, "work": str(tmp_path / "work"), "hint": ([], "")}
    watchdog = supervisor.Watchdog(plan, -1, harness)  # pyright: ignore[reportArgumentType]
    counts.write_text(f"oom_kill {5 + kills}\n")
    watchdog._ending = "exited"
    watchdog._find_cause(b"S")
    assert watchdog._ending == ending


def test_what_a_umask_hides_is_recognised(tmp_path: "os.PathLike[str]") -> None:
    folder = os.path.join(tmp_path, "f")
    os.mkdir(folder, 0o755)
    os.chmod(folder, 0o755)
    assert workdir.readable_by_all(folder)
    with open(f"{folder}/file", "w"):
        os.chmod(f"{folder}/file", 0o600)
    assert not workdir.readable_by_all(folder)
