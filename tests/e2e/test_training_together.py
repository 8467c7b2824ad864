"""Two processes train one adapter in a whole run: one of them is lost, then both are killed with the driver."""

import os
import signal
import time

import psutil
import pytest

from tests.arithmetic import SMALL
from tests.e2e.test_approve import command
from tests.scripts.slurm import until

pytest.importorskip("torch", reason="the weights lever needs the extra `training`")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

STEPS, QUESTIONS, SAMPLES = 8, 6, 4
EXPERIMENT = ["task=arithmetic", "trainer=grpo", "trainer.processes=2", "max_gen=2", "seed=4", *SMALL]
EXPERIMENT += [f"trainer.steps={STEPS}", f"trainer.prompts_per_step={QUESTIONS}", f"trainer.group_size={SAMPLES}"]
EXPERIMENT += ["trainer.checkpoint_every=2"]


def log_of(cli):
    path = cli.run / "gen_2" / "training.log"
    return path.read_text() if path.is_file() else ""


def alive(cli):
    """Return all processes that name the run: the driver, the launcher, both trainers and their sandbox helpers."""
    processes = psutil.process_iter(["pid", "cmdline"])
    return {
        process.pid: line for process in processes if str(cli.run) in (line := " ".join(process.info["cmdline"] or []))
    }


def trainers(cli):
    """Not their launcher."""
    return [pid for pid, line in alive(cli).items() if "weights.parallel" in line and "nproc" not in line]


def when(driver, moment):
    while not moment():
        assert driver.poll() is None, driver.communicate()[0]
        time.sleep(0.02)


def test_one_is_lost_then_all_are_killed_with_the_driver_and_each_time_they_go_on_from_their_checkpoint(cli):
    driver = cli.start(*EXPERIMENT)
    when(driver, lambda: "step 3/8" in log_of(cli))
    assert len(trainers(cli)) == 2
    os.kill(trainers(cli)[-1], signal.SIGKILL)
    when(driver, lambda: "resumed after step" in log_of(cli) and "step 5/8" in log_of(cli))
    assert "a process of the training was lost" in log_of(cli)
    driver.kill()
    driver.communicate()
    until(lambda: not alive(cli), 30)
    done = cli(f"resume={cli.run}", timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "FutureWarning" not in done.stderr
    assert log_of(cli).count("resumed after step") == 2, "one of them tells"
    (built,) = [e["result"] for e in cli.journal if e["event"] == "done" and e["step"] == "gen_2/build"]
    assert built["steps"] == len(built["reward"]) == STEPS and not built["fault"]
    last = [line for line in log_of(cli).splitlines() if line.startswith("step 8/8")]
    assert len(last) == 1
    assert cli.summary["generations"][1]["status"] in ("accepted", "rejected")
    assert not (cli.run / "gen_2" / "processes").exists() and not (cli.run / "gen_2" / "rollouts").exists()
    code, verify_output = command("verify", cli.run)
    assert code == 0, verify_output
    assert not alive(cli)
