"""compute=local: stages as processes that survive the driver."""

import signal

import pytest

from tests.conftest import Cli
from tests.harnesses import MAJORITY, WORDS
from tests.scripts.slurm import OnCluster, essence, until

SLOW = "time.sleep(4 if 20 < len(asked) < 200 else 0)\n"
RUN = "gen_1/run"


@pytest.fixture(scope="module")
def inline(tmp_path_factory):
    cli = Cli(tmp_path_factory.mktemp("inline"))
    assert cli(*cli.replay(MAJORITY + SLOW, WORDS)).returncode == 0
    return essence(cli)


@pytest.fixture
def run(cli):
    one = OnCluster(cli)
    one.start(*cli.replay(MAJORITY + SLOW, WORDS), "compute=local")
    until(lambda: one.jobs(RUN) and (cli.run / "jobs" / RUN / "lease.json").exists())
    yield one
    if one.driver.poll() is None:
        one.kill()


def ends_as(run, inline):
    assert run.ended() == 0, run.said
    run.assert_counted_once()
    assert essence(run.cli) == inline


@pytest.mark.slow
def test_a_killed_driver_finds_its_job_again(run, inline):
    (job,) = run.jobs(RUN)
    run.kill()
    ends_as(run.resume(), inline)
    assert run.jobs(RUN) == [job]


@pytest.mark.slow
def test_an_interrupted_driver_takes_its_job_with_it(run, inline):
    lease = run.cli.run / "jobs" / RUN / "lease.json"
    run.driver.send_signal(signal.SIGINT)
    assert run.ended() == 130
    until(lambda: not lease.exists())
    assert "Traceback" not in run.said
    ends_as(run.resume(), inline)
    assert len(run.jobs(RUN)) == 2
