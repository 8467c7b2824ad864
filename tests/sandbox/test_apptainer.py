"""sandbox=apptainer: the command that it builds, and a real run where the program is installed."""

import os
import shutil
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from sia_runner.sandbox import apptainer
from sia_runner.sandbox.apptainer import Apptainer, arguments
from sia_runner.sandbox.protocol import Ending, SandboxError, SandboxJob
from tests.sandbox.conftest import ENTRY


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program of that name, which is never run, and an image."""
    program = tmp_path / "apptainer"
    program.write_text("#!/bin/sh\nexit 1\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    image = tmp_path / "image.sif"
    image.write_bytes(b"image")
    return image


def site(folder: Path, program: str = "print(1)") -> SandboxJob:
    from sia_runner.sandbox.protocol import SandboxLimits

    for name in ("harness", "data", "work"):
        (folder / name).mkdir(parents=True)
    (folder / "harness" / ENTRY).write_text(program)
    return SandboxJob(
        folder / "harness", ENTRY, folder / "data", folder / "work", folder / "log", SandboxLimits(seconds=60)
    )


def pairs(words: list[str], name: str) -> list[str]:
    return [value for option, value in pairwise(words) if option == name]


def test_nothing_of_the_host_is_left_to_its_configuration(installed: Path, tmp_path: Path) -> None:
    plan = Apptainer(os.fspath(installed))._plan(site(tmp_path / "site"))
    words = plan["apptainer"]
    for option in ("--containall", "--cleanenv", "--no-eval", "--net", "--no-privs"):
        assert option in words
    assert pairs(words, "--network") == ["none"] and pairs(words, "--drop-caps") == ["all"]
    assert pairs(words, "--no-mount") == ["bind-paths,hostfs,cwd"]
    assert "--nv" not in words
    assert words[-6:] == [os.fspath(installed), "python3", "-I", "-S", "-E", words[-1]]
    assert words[-1].endswith("/inside.py")


def test_only_work_can_be_written(installed: Path, tmp_path: Path) -> None:
    mounts = pairs(Apptainer(os.fspath(installed))._plan(site(tmp_path / "site"))["apptainer"], "--mount")
    writable = [mount for mount in mounts if not mount.endswith(",ro")]
    assert writable == [f'"type=bind","source={tmp_path}/site/work","destination=/sandbox/work"']
    assert any('"destination=/sandbox/data",ro' in mount for mount in mounts)


def test_a_path_with_a_comma_or_a_quote_stays_one_path() -> None:
    words = arguments("a", "i", {"/in": '/b,"c'}, "/w", uid=None, gpus=True)
    assert pairs(words, "--mount")[0] == '"type=bind","source=/b,""c","destination=/in",ro'
    assert "--nv" in words and "--security" not in words


def test_a_harness_of_root_gets_an_unprivileged_user() -> None:
    assert pairs(arguments("a", "i", {}, "/w", uid=61200, gpus=False), "--security") == ["uid:61200", "gid:61200"]


def test_the_image_is_named_by_its_hash(installed: Path) -> None:
    sha = "6105d6cc76af400325e94d588ce511be5bfdbb73b437dc51eca43917d7a43e3d"
    assert apptainer._identity(installed) == f"sha256:{sha}"


def test_a_missing_image_names_the_commands_that_make_it(installed: Path) -> None:
    with pytest.raises(SandboxError, match=r"sandbox\.image=none\.sif.* apptainer build none\.sif"):
        Apptainer("none.sif").check()


def test_a_missing_program_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(SandboxError, match="apptainer"):
        Apptainer("image.sif").check()


STAND_IN = """#!{python}
import csv, os, sys
words, binds = sys.argv[1:], []
image = words.index('python3')
for option, value in zip(words, words[1:image]):
    if option == '--mount':
        one = next(csv.reader([value]))
        fields = dict(field.split('=', 1) for field in one if '=' in field)
        if fields['destination'].startswith('/sandbox'):
            binds += ['--ro-bind' if 'ro' in one else '--bind', fields['source'], fields['destination']]
for name in set(os.listdir('/')) - {{'proc', 'dev', 'tmp', 'sandbox'}}:
    binds += ['--ro-bind', '/' + name, '/' + name]
os.execvp({bwrap!r}, [{bwrap!r}, '--unshare-pid', '--unshare-net', '--proc', '/proc', '--dev', '/dev',
                      '--tmpfs', '/tmp', *binds, {python!r}, *words[image + 1:]])
"""


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Apptainer:
    """Where apptainer is not installed: a program that takes its command line and mounts the same by bubblewrap. It
    proves our side, the plan that goes in and the ending that comes out, and nothing of apptainer."""
    bwrap = shutil.which("bwrap")
    if not bwrap or os.geteuid() != 0:
        pytest.skip("NOT TESTED: needs root and bubblewrap")
    program = tmp_path / "bin" / "apptainer"
    program.parent.mkdir()
    program.write_text(STAND_IN.format(python=os.path.realpath(sys.executable), bwrap=bwrap))
    program.chmod(0o755)
    (tmp_path / "image.sif").write_bytes(b"image")
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    return Apptainer(os.fspath(tmp_path / "image.sif"))


def test_how_a_harness_ended_comes_out_by_the_same_supervisor(stand_in: Apptainer, tmp_path: Path) -> None:
    ran = site(tmp_path / "one", "import sys; print('said'); sys.exit(7)")
    result = stand_in.run(ran)
    assert (result.ending, result.exit_code) == (Ending.EXITED, 7), result
    assert ran.log.read_text() == "said\n"
    late = site(tmp_path / "two", "import time; time.sleep(60)")
    result = stand_in.run(replace(late, limits=replace(late.limits, seconds=1)))
    assert result.ending is Ending.TIMEOUT and result.seconds < 5


def test_a_harness_runs_for_real(tmp_path: Path) -> None:
    sandbox = Apptainer(os.environ.get("SIA_SIF", "sia-runner-sandbox.sif"))
    try:
        sandbox.check()
    except SandboxError as error:
        pytest.skip(f"NOT TESTED: {error}")
    tmp_path.chmod(0o755)
    job = site(tmp_path / "site", "import os; print(os.listdir('/sandbox')); open('made', 'w').close()")
    result = sandbox.run(job)
    assert (result.ending, result.exit_code) == (Ending.EXITED, 0), result
    assert (job.work / "made").exists()
