"""Every resource has a bound, and whoever passes it ends with everything it started."""

import os
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from sia_runner.sandbox.protocol import Ending, SandboxJob, SandboxLimits
from tests.sandbox.conftest import ENTRY, Box, sandbox_processes

MIB = 1 << 20


def test_a_deadline_ends_a_tree_that_ignores_signals_and_hides_in_sessions_of_its_own(box: Box) -> None:
    ran = box.run(
        """
        import os, signal, time
        for number in range(1, 65):
            try:
                signal.signal(number, signal.SIG_IGN)
            except (OSError, ValueError):
                pass
        for _ in range(4):  # double fork, setsid, output closed
            if os.fork() == 0:
                os.setsid()
                if os.fork() == 0:
                    os.closerange(0, 3)
                    while True:
                        time.sleep(1)
                os._exit(0)
        while True:
            time.sleep(1)
    """,
        seconds=0.6,
    )
    assert ran.ended.ending is Ending.TIMEOUT and ran.ended.exit_code is None
    assert 0.6 <= ran.ended.seconds < 3
    assert sandbox_processes() == []


def test_a_grandchild_that_holds_the_output_does_not_hold_up_the_end(box: Box) -> None:
    ran = box.run("""
        import os, time
        if os.fork() == 0:
            os.setsid()
            time.sleep(100)
        print('main done')
    """)
    assert ran.ended.ending is Ending.EXITED and ran.ended.exit_code == 0
    assert ran.ended.seconds < 3 and ran.log == "main done\n"


def test_a_fork_bomb_is_bounded_and_ends(box: Box) -> None:
    most = 0
    job = box.job(
        """
        import os
        while True:
            try:
                os.fork()
            except OSError:
                pass
    """,
        seconds=1,
        processes=40,
    )
    ran = _sampled(
        box, job, lambda: sum(ENTRY in " ".join(p.info["cmdline"] or []) for p in psutil.process_iter(["cmdline"]))
    )
    most = ran.most
    assert 2 <= most <= 40 + 4, most
    assert ran.ended.ending in (Ending.TIMEOUT, Ending.EXITED)
    assert sandbox_processes() == []


def test_threads_are_bounded_too(box: Box) -> None:
    ran = box.run(
        """
        import threading, time
        n = 0
        try:
            while n < 500:
                threading.Thread(target=time.sleep, args=(100,), daemon=True).start(); n += 1
        except RuntimeError:
            pass
        print(n, flush=True)
        import os; os._exit(0)
    """,
        processes=30,
    )
    assert 10 <= int(ran.log) <= 31 or "more than 30 processes" in ran.ended.detail


def test_memory_of_one_process_is_bounded(box: Box) -> None:
    ran = box.run(
        """
        blocks = []
        while True:
            blocks.append(bytearray(8 << 20)); blocks[-1][::4096] = b'x' * len(blocks[-1][::4096])
    """,
        memory_mb=200,
    )
    assert ran.ended.ending is Ending.OUT_OF_MEMORY, ran
    assert ran.ended.peak_mb < 200 + 150
    assert "200 MiB" in ran.ended.detail


def test_memory_of_many_processes_is_summed(box: Box) -> None:
    ran = box.run(
        """
        import os, time
        for _ in range(8):
            if os.fork() == 0:
                block = bytearray(60 << 20); block[::4096] = b'x' * len(block[::4096])
                time.sleep(60)
        time.sleep(60)
    """,
        memory_mb=256,
    )
    assert ran.ended.ending is Ending.OUT_OF_MEMORY, ran
    assert ran.ended.peak_mb < 256 + 150


def test_shared_memory_is_counted_once(box: Box) -> None:
    """Forked workers that share one table are not eight tables."""
    ran = box.run(
        """
        import os, time
        block = bytearray(100 << 20); block[::4096] = b'x' * len(block[::4096])
        for _ in range(8):
            if os.fork() == 0:
                time.sleep(0.3); os._exit(0)
        for _ in range(8):
            os.wait()
    """,
        memory_mb=400,
    )
    assert ran.ended.ending is Ending.EXITED and ran.ended.exit_code == 0, ran


def test_a_memory_error_that_a_limit_caused_is_named(own_box: Box) -> None:
    ran = own_box.run("raise MemoryError")
    assert ran.ended.ending is Ending.OUT_OF_MEMORY


@pytest.mark.parametrize("act", ["one", "small", "deleted"])
def test_disk_use_is_bounded(box: Box, act: str) -> None:
    """One big file, many small ones, and files deleted but held open."""
    limit = 1 if act == "small" else 48
    ran = box.run(
        """
        import os, time
        act = ACT
        n = 0
        keep = []
        while True:
            n += 1
            if act == 'one':
                with open(f'big{n}', 'wb') as file:
                    for _ in range(20):
                        file.write(b'x' * (1 << 20))
            elif act == 'small':
                with open(f'small{n}', 'wb') as file:
                    file.write(b'x')
                time.sleep(0.001)  # for the sake of whoever deletes them
            else:
                keep.append(open(f'gone{n}', 'wb', 0)); os.unlink(f'gone{n}'); keep[-1].write(b'x' * (1 << 20))
    """.replace("ACT", repr(act)),
        disk_mb=limit,
        seconds=20,
    )
    assert ran.ended.ending is Ending.DISK_FULL, ran
    assert _used(ran.work) < (limit + 900) * MIB  # what a fast disk takes in 0.2 s, and a look at many files
    assert ran.ended.detail == f"work/ took more than {limit} MiB"


def test_one_file_is_bounded(box: Box) -> None:
    ran = box.run("open('big', 'wb').write(b'x' * (40 << 20))", file_mb=8)
    assert ran.ended.exit_code != 0
    assert (ran.work / "big").stat().st_size <= 8 * MIB


def test_temporary_folders_are_small_or_closed(box: Box) -> None:
    ran = box.run(
        """
        import os
        for folder in ('/tmp', '/dev/shm', '/var/tmp', '/run', '/dev', '/run/lock'):
            n = 0
            try:
                with open(f'{folder}/fill-{os.getpid()}', 'wb') as file:
                    while n < 300:
                        file.write(b'x' * (1 << 20)); n += 1
            except OSError:
                pass
            print(folder, n)
    """,
        memory_mb=600,
        file_mb=512,
        disk_mb=500,
    )
    written = {line.split()[0]: int(line.split()[1]) for line in ran.log.splitlines()}
    allowed = 0 if box.name == "process" else 64
    assert written == {"/tmp": written["/tmp"], "/dev/shm": written["/dev/shm"], "/var/tmp": 0, "/run": 0, "/dev": 0,
                       "/run/lock": 0}  # fmt: skip
    assert written["/tmp"] <= allowed and written["/dev/shm"] <= allowed


SHARED = """
    from multiprocessing.shared_memory import SharedMemory
    memory = SharedMemory(create=True, size=100 << 20)
    memory.buf[:] = bytes(100 << 20)
"""
POOL = "import multiprocessing; multiprocessing.Lock()"
TEMPORARY = """
    import tempfile
    tempfile.TemporaryFile().write(bytes(100 << 20))
"""


@pytest.mark.parametrize(("program", "fails_in"), [(SHARED, ""), (TEMPORARY, "bubblewrap docker"), (POOL, "process")])
def test_a_failure_for_want_of_shared_memory_says_what_the_sandbox_has(
    own_box: Box, program: str, fails_in: str
) -> None:
    ran = own_box.run(program, file_mb=512, disk_mb=500)
    if fails_in and own_box.name not in fails_in:
        assert ran.ended.exit_code == 0, ran
        return
    assert ran.ended.exit_code not in (0, None)
    limits = "no /dev/shm" if own_box.name == "process" else "/tmp and /dev/shm, the shared memory, hold 64 MiB each"
    assert limits in ran.ended.detail


def test_other_failures_do_not_mention_it(own_box: Box) -> None:
    assert "/dev/shm" not in own_box.run("raise ValueError('wrong')").ended.detail


def test_joblib_hands_arrays_larger_than_the_temporary_folder_to_its_workers(own_box: Box) -> None:
    """It is what scikit-learn's n_jobs uses; without a folder of its own it fails with "Could not pickle the task"."""
    pytest.importorskip("joblib")
    ran = own_box.run(
        """
        import numpy as np
        from joblib import Parallel, delayed
        print(sum(Parallel(n_jobs=2)(delayed(np.sum)(np.ones(12_000_000)) for _ in range(2))))
    """,
        memory_mb=2048,
        file_mb=256,
        disk_mb=500,
        seconds=60,
    )
    assert ran.ended.exit_code == 0, ran
    assert "24000000.0" in ran.log


def test_hiding_files_in_an_unreadable_folder_counts_as_full(box: Box) -> None:
    if box.name == "process" or box.who == "root":
        pytest.skip("chmod is a no-op there, or root reads everything")
    ran = box.run("""
        import os, time
        os.mkdir('hidden'); open('hidden/file', 'w').write('x'); os.chmod('hidden', 0); time.sleep(5)
    """)
    assert ran.ended.ending is Ending.DISK_FULL


def test_a_program_that_nobody_may_read_cannot_hide_its_open_files(box: Box) -> None:
    """The kernel closes /proc/PID/fd of a process whose program is not readable."""
    ran = box.run("""
        import os, shutil
        shutil.copy('/bin/sleep', 'sleep'); os.chmod('sleep', 0o111)
        os.execv('sleep', ['sleep', '0.6'])
    """)
    if box.who == "user" and box.name != "process":
        assert ran.ended.ending is Ending.DISK_FULL, ran
    else:  # root looks into every process, and chmod is a no-op for an ordinary user's process
        assert ran.ended.ending is Ending.EXITED, ran


def test_zombies_and_short_lived_processes_hide_nothing(box: Box) -> None:
    ran = box.run("""
        import os, time
        for _ in range(5):
            if os.fork() == 0:
                os._exit(0)
        end = time.monotonic() + 0.6
        while time.monotonic() < end:
            pid = os.fork()
            if pid == 0:
                os._exit(0)
            os.waitpid(pid, 0)
    """)
    assert ran.ended.ending is Ending.EXITED and ran.ended.exit_code == 0, ran


def test_processors_are_bounded_and_cannot_be_taken_back(box: Box) -> None:
    if (os.cpu_count() or 1) < 2:
        pytest.skip("NOT TESTED: one processor only")
    ran = box.run("""
        import os
        try:
            os.sched_setaffinity(0, range(os.cpu_count()))
        except PermissionError:
            print(len(os.sched_getaffinity(0)), os.environ['OMP_NUM_THREADS'])
    """)
    assert ran.log.split() == ["1", "1"]


def test_processor_seconds_are_bounded(own_box: Box) -> None:
    """A watchdog that was held up would still find the CPU limit of the kernel set."""
    ran = own_box.run("import resource; print(resource.getrlimit(resource.RLIMIT_CPU))", seconds=20)
    assert ran.log == "(30, 30)\n"


def test_peak_memory_and_processor_time_are_measured(box: Box) -> None:
    ran = box.run("""
        import time
        block = bytearray(150 << 20); block[::4096] = b'x' * len(block[::4096])
        end = time.process_time() + 0.3
        while time.process_time() < end:
            pass
    """)
    assert 140 < ran.ended.peak_mb < 260
    assert 0.25 < ran.ended.cpu_seconds < 3


@pytest.mark.parametrize(
    "box", ["bubblewrap-root" if os.geteuid() == 0 else "bubblewrap-user", "process-user"], indirect=True
)
def test_sklearn_fits_a_linear_svc_with_the_default_limits(box: Box) -> None:
    pytest.importorskip("sklearn")
    job = box.job("""
        import scipy, numpy as np
        from sklearn.svm import LinearSVC
        from sklearn.feature_extraction.text import TfidfVectorizer
        x = TfidfVectorizer(analyzer='char', ngram_range=(1, 2)).fit_transform(f'text {i % 7} {i}' for i in range(300))
        y = np.arange(300) % 7
        print(LinearSVC().fit(x, y).score(x, y) > 0.5, (np.random.rand(300, 300) @ np.random.rand(300, 300)).shape)
    """)
    ran = box.run_job(replace(job, limits=replace(SandboxLimits(), seconds=60)))
    assert ran.log.splitlines()[-1] == "True (300, 300)", ran


class _Sampled:
    def __init__(self, ended: object, most: int) -> None:
        self.ended, self.most = ended, most


def _sampled(box: Box, job: SandboxJob, measure: object) -> _Sampled:
    import threading

    seen = [0]
    done = threading.Event()

    def sample() -> None:
        while not done.wait(0.05):
            seen.append(measure())

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        ran = box.run_job(job)
    finally:
        done.set()
        thread.join()
    return _Sampled(ran.ended, max(seen))


def _used(folder: Path) -> int:
    time.sleep(0)
    return sum(path.lstat().st_blocks * 512 for path in folder.rglob("*"))
