"""The choice of a sandbox, and the gaps that it reports."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sia_runner.sandbox import auto, bubblewrap, driver, landlock, process
from sia_runner.sandbox.bubblewrap import Bubblewrap
from sia_runner.sandbox.process import Process
from sia_runner.sandbox.protocol import Ending, SandboxError, SandboxResult
from tests.sandbox.conftest import Box


@pytest.fixture
def no_bubblewrap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    forget_what_was_found()
    yield
    forget_what_was_found()


def forget_what_was_found() -> None:
    bubblewrap._check.cache_clear()
    bubblewrap._options.cache_clear()


def test_auto_takes_bubblewrap_where_it_works() -> None:
    try:
        Bubblewrap().check()
    except SandboxError as error:
        pytest.skip(f"NOT TESTED: {error}")
    assert auto.auto().name == "bubblewrap"


def test_auto_takes_process_where_bubblewrap_is_missing_and_says_why(no_bubblewrap: None) -> None:
    chosen = auto.auto()
    assert chosen.name == "process"
    assert chosen.gaps()[0] == (
        "This is the weaker sandbox: bubblewrap is not installed (its program bwrap is not on PATH)."
    )


def test_a_bubblewrap_that_cannot_make_namespaces_is_refused_with_its_own_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a container that forbids user namespaces."""
    fake = tmp_path / "bwrap"
    fake.write_text(
        "#!/bin/sh\n[ $1 = --help ] && echo --disable-userns --size\n"
        "echo 'bwrap: No permissions to create new namespace' >&2\nexit 1\n"
    )
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    forget_what_was_found()
    with pytest.raises(SandboxError, match="bwrap: No permissions"):
        Bubblewrap().check()
    forget_what_was_found()


def test_process_says_that_bare_kernels_protect_little() -> None:
    gaps_text = " ".join(process._gaps(0, False, False, "/root"))
    for what in ("no Landlock", "gold answers included", "network is open", "can kill", "sampled", "SIGKILL"):
        assert what in gaps_text or (what == "can kill" and "signals" in gaps_text)


@pytest.mark.parametrize(("abi", "closed"), [(3, "signals"), (6, "")])
def test_process_claims_what_the_kernels_landlock_covers(abi: int, closed: str) -> None:
    gaps_text = " ".join(process._gaps(abi, True, True, "/root"))
    assert "no Landlock" not in gaps_text and "network" not in gaps_text
    assert ("signals" in gaps_text) == (closed == "signals")


def test_the_gaps_of_this_machine_are_those_that_were_measured() -> None:
    gaps_text = " ".join(Process().gaps())
    assert ("no Landlock" in gaps_text) == (landlock.landlock_abi() == 0)
    assert ("network is open" in gaps_text) == (not process._has_filters())


def test_root_without_a_public_python_stays_root_and_says_so(process: Box) -> None:
    gaps_text = " ".join(process.gaps())
    ran = process.run("import os; print(os.getuid() == 0)")
    assert (ran.log.strip() == "True") == ("runs as root without capabilities" in gaps_text)


def test_a_job_that_cannot_run_is_not_the_harnesss_fault(own_box: Box) -> None:
    job = own_box.job("print(1)")
    from dataclasses import replace

    for wrong, what in ((replace(job, entry="missing.py"), "has no file missing.py"),
                        (replace(job, entry="../data/questions.csv"), "outside its harness"),
                        (replace(job, work=job.work / "no"), "does not exist"),
                        (replace(job, log=job.work / "log"), "must lie outside work/")):  # fmt: skip
        result = own_box.run_job(wrong).ended
        assert result.ending is Ending.NOT_STARTED
        assert what in result.detail


def test_the_package_imports_fast() -> None:
    code = "import time; t = time.perf_counter(); import sia_runner.sandbox; print(time.perf_counter() - t)"
    took = min(
        float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout) for _ in range(3)
    )
    assert took < 0.03


def test_a_trivial_harness_takes_a_fraction_of_a_second(box: Box) -> None:
    took = []
    for _ in range(3):
        start = time.perf_counter()
        seconds = box.run("open('made', 'w').close()").ended.seconds
        took.append(seconds if box.command else time.perf_counter() - start)
    assert min(took) < (1 if box.name == "docker" else 0.5)  # 0.06-0.09 s on an idle machine; an engine takes 0.4


def test_a_python_that_needs_a_variable_to_find_its_library_is_refused_with_the_remedy():
    class Sandbox:
        name = "bubblewrap"

        def run(self, job):
            missing = "libpython3.11.so.1.0: cannot open shared object file: No such file or directory"
            return SandboxResult(Ending.EXITED, 127, detail=f"python: error while loading shared libraries: {missing}")

    with pytest.raises(SandboxError, match="libpython3.*LD_LIBRARY_PATH"):
        driver.try_out(Sandbox(), False)
