"""Runs made once by the real command line, for all tests of the report."""

import json
import subprocess
import sys

import pytest

from sia_runner.results.report.runs import find_sources, read_run
from tests.conftest import Cli
from tests.harnesses import MAJORITY, WORDS

HOSTILE = '</pre></details></title><script>alert("harness")</script><img src=x onerror=alert(1)>'
# Better than MAJORITY, and written to break the page that shows what it changed.
TRAP = f"# {HOSTILE}\n# \x1b[31m\u202e{'long ' * 200}\nprint('''{HOSTILE}''')\n{WORDS}"


def summary(path):
    return json.loads((path / "summary.json").read_text())


@pytest.fixture(scope="session")
def smoke_sweep(_own_cache, tmp_path_factory):
    """Two seeds of SIA-H without a model; two rows that are refused, since a script has no weights to train."""
    cli = Cli(tmp_path_factory.mktemp("report"))
    folder = cli.folder / "swept"
    done = cli(
        *("-m", "task=smoke", "seed=0,1", "trainer=none,grpo", "target_agent=script", "max_gen=2"),
        f"hydra.sweep.dir={folder}",
    )
    assert done.returncode == 2 and "refused" in done.stderr, done.stdout + done.stderr
    return folder


@pytest.fixture(scope="session")
def trapped(_own_cache, tmp_path_factory):
    """A run whose accepted change holds markup and control characters; its third generation fails."""
    cli = Cli(tmp_path_factory.mktemp("report"))
    cli.run = cli.folder / "trapped"
    done = cli("task=smoke", *cli.replay(MAJORITY, TRAP, f"raise SystemExit({HOSTILE!r})\n"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert [g["status"] for g in summary(cli.run)["generations"]] == ["accepted", "accepted", "failed"]
    return cli.run


@pytest.fixture
def report(tmp_path):
    """``report(RUN…, "key=value")``: the real command; `report.file(".runs.csv")` what it wrote."""

    class Command:
        out = tmp_path / "out" / "page.html"

        def __call__(self, *args, env=None):
            command = [sys.executable, "-m", "sia_runner", "report", *map(str, args), f"out={self.out}"]
            given = {"stdin": subprocess.DEVNULL, "capture_output": True, "text": True, "env": env, "check": False}
            return subprocess.run(command, cwd=tmp_path, timeout=120, **given)

        def file(self, suffix):
            return self.out.with_suffix(suffix).read_text(encoding="utf-8")

    return Command()


@pytest.fixture
def ran():
    """``ran(FOLDER…)``: what the report reads of these runs."""
    return lambda *folders: [read_run(result) for result in find_sources(folders)]
