"""Sweeps from the command line: what dies takes nothing else along, and resume=DIR brings what is missing."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

SMOKE = ["-m", "task=smoke", "max_gen=1", "hydra.sweep.dir=sweep"]


class Sweep:
    def __init__(self, cli):
        self.cli, self.path = cli, cli.folder / "sweep"

    def __call__(self, *args):
        return self.cli(*args, timeout=200)

    def resume(self, *args):
        """From elsewhere: the sweep knows where it was started."""
        command = [sys.executable, "-m", "sia_runner", f"resume={self.path}", *args]
        return subprocess.run(command, cwd="/", capture_output=True, text=True, check=False, timeout=200)

    @property
    def statuses(self):
        return [row["status"] for row in json.loads((self.path / "sweep.json").read_text())["runs"]]

    def journals(self):
        return {path.parent.name: path.read_bytes() for path in sorted(self.path.glob("*/journal.jsonl"))}

    def lease(self, number, process):
        """Wait until that run is at work; who does it."""
        while True:
            for path in self.path.glob(f"{number}-*/lease.json"):
                return json.loads(path.read_text())
            assert process.poll() is None, process.stdout.read()
            time.sleep(0.02)


@pytest.fixture
def sweep(cli):
    return Sweep(cli)


@pytest.mark.slow
def test_runs_that_are_refused_are_rows_of_the_table_and_the_others_complete(sweep):
    done = sweep(*SMOKE, "seed=0,1", "trainer=none,grpo", "target_agent=script")
    assert done.returncode == 2
    assert sweep.statuses == ["completed", "refused", "completed", "refused"], done.stderr
    assert (
        "refused: 1-smoke-SIA-W+H-seed0-trainer=grpo: trainer=grpo trains the model that a harness calls" in done.stderr
    )
    assert sorted(path.name for path in sweep.path.glob("*-smoke-*")) == [
        "0-smoke-SIA-H-seed0-trainer=none",
        "2-smoke-SIA-H-seed1-trainer=none",
    ]
    before = sweep.journals()
    again = sweep.resume("max_gen=2")  # what has ended is asked for more; what was refused, again
    assert again.returncode == 2 and sweep.statuses == ["completed", "refused", "completed", "refused"]
    for name, journal in sweep.journals().items():
        assert journal.startswith(before[name]) and b"gen_2/accept" in journal


def test_what_cannot_be_composed_refuses_the_sweep_before_anything_starts(sweep):
    for args, why in (
        (["task=smoke,smok"], "task=smok: no such choice; did you mean 'smoke'?"),
        (["seed=0,1", "hydra.sweep.subdir=same"], "hydra.sweep.subdir=same: two runs of the sweep would share it"),
        (["+sweeps=frist"], "sweeps=frist: no such choice; did you mean 'first'?"),
        (["hydra/launcher=submitit_slrm"], "hydra/launcher=submitit_slrm: no such choice; did you mean"),
    ):
        done = sweep(*SMOKE, *args)
        assert done.returncode == 2 and not sweep.path.exists()
        (line,) = done.stderr.splitlines()
        assert line.startswith(f"refused: {why}")


@pytest.mark.slow
def test_a_killed_command_is_resumed_where_it_was(sweep):
    driver = sweep.cli.start(*SMOKE, "seed=0,1,2")
    sweep.lease(1, driver)
    second = sweep.resume()
    assert second.returncode == 2 and f"{sweep.path} is being written by process {driver.pid}" in second.stderr
    driver.kill()
    driver.wait()
    before = sweep.journals()
    other = sweep(*SMOKE, "seed=5")
    assert other.returncode == 2 and f"already holds a sweep; continue it with resume={sweep.path}" in other.stderr
    foreign = sweep.resume("trainer=grpo")
    assert foreign.returncode == 2 and foreign.stderr.startswith("refused: trainer=grpo: ")
    done = sweep.resume()
    assert done.returncode == 0, done.stdout + done.stderr
    assert sweep.statuses == ["completed"] * 3
    after = sweep.journals()
    assert after["0-smoke-SIA-H-seed0"] == before["0-smoke-SIA-H-seed0"]
    for journal in after.values():
        entries = [json.loads(line) for line in journal.splitlines()]
        steps = [entry["step"] for entry in entries if entry["event"] == "done"]
        assert len(steps) == len(set(steps))


def test_ctrl_c_ends_the_sweep_and_not_only_its_run(sweep):
    driver = sweep.cli.start(*SMOKE, "seed=0,1")
    while not any(b'"start"' in journal for journal in sweep.journals().values()):
        assert driver.poll() is None, driver.stdout.read()
    driver.send_signal(signal.SIGINT)
    output, _ = driver.communicate(timeout=60)
    assert driver.returncode == 130, output
    assert f"continue with: python -m sia_runner resume={sweep.path}" in output
    assert sweep.statuses == ["interrupted", "missing"]


@pytest.mark.slow
def test_a_job_that_is_killed_takes_no_other_along(sweep):
    pytest.importorskip("submitit", reason="jobs need the extra `slurm`")
    driver = sweep.cli.start(
        *SMOKE, "seed=0,1,2", "hydra/launcher=submitit_local", "hydra.launcher.array_parallelism=2"
    )
    os.kill(sweep.lease(1, driver)["pid"], signal.SIGKILL)
    output, _ = driver.communicate(timeout=120)
    assert driver.returncode == 130, output
    assert sweep.statuses == ["completed", "cut", "completed"], output
    before = sweep.journals()
    done = sweep.resume()
    assert done.returncode == 0 and sweep.statuses == ["completed"] * 3, done.stdout + done.stderr
    changed = [name for name, journal in sweep.journals().items() if journal != before.get(name)]
    assert changed == ["1-smoke-SIA-H-seed1"]  # by the same launcher, which did nothing else
    assert len((sweep.path / "jobs" / "submitted.jsonl").read_text().splitlines()) == 4


def test_the_table_of_a_sweep_is_there_while_it_is_cut(sweep):
    sweep(*SMOKE, "seed=0,1")
    command = [sys.executable, "-m", "sia_runner", "sweep", str(sweep.path)]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "1-smoke-SIA-H-seed1 │ completed" in printed and "2 of 2" in printed
    (sweep.path / "outcomes" / "1-smoke-SIA-H-seed1.json").unlink()
    table = json.loads(subprocess.run([*command, "--json"], capture_output=True, text=True, check=True).stdout)
    assert [row["status"] for row in table["runs"]] == ["completed", "cut"]
