"""A finished run, and the real command line as a process."""

import subprocess
import sys

import pytest

from tests.conftest import Cli
from tests.harnesses import MAJORITY, RAREST, WORDS
from tests.results.report.conftest import report, smoke_sweep, trapped  # noqa: F401 - fixtures
from tests.tracking.conftest import tracked  # noqa: F401 - a fixture


@pytest.fixture(scope="session")
def finished(_own_cache, tmp_path_factory):
    """A run of three generations."""
    cli = Cli(tmp_path_factory.mktemp("finished"))
    done = cli("task=smoke", *cli.replay(MAJORITY, RAREST, WORDS))
    assert done.returncode == 0, done.stdout + done.stderr
    return cli


@pytest.fixture
def run(finished, tmp_path):
    """A copy to tamper with."""
    subprocess.run(["cp", "-a", str(finished.run), str(tmp_path / "run")], check=True)
    return tmp_path / "run"


def command(name, *args):
    """Run the command; return its exit code and all that it printed."""
    done = subprocess.run(
        [sys.executable, "-m", "sia_runner", name, *map(str, args)], capture_output=True, text=True, check=False
    )
    return done.returncode, done.stdout + done.stderr
