"""Kill -9 at random moments, several in one run: the resumed run ends as the one that was left in peace."""

import random
import signal
import subprocess
import sys
import time

import psutil
import pytest

from tests.conftest import Cli

EXPERIMENT = ["max_gen=4", "seed=3"]


def run_to_end(cli):
    assert cli(*EXPERIMENT).returncode == 0
    return essence(cli)


def essence(cli):
    """All that may not depend on kills: verdicts, scores, outcomes, the tested result."""
    keep = ("n", "lever", "title", "status", "reason", "val", "outcomes")
    return [{key: g[key] for key in keep} for g in cli.summary["generations"]], cli.summary["best"]


def ours(run):
    """Processes that still mention this run directory."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        if any(str(run) in part for part in process.info["cmdline"] or []):
            found.append(process)
    return found


def cut(runner, seconds):
    """Kill -9 after `seconds`; False when the run had ended by then."""
    try:
        runner.communicate(timeout=seconds)
        return False
    except subprocess.TimeoutExpired:
        runner.send_signal(signal.SIGKILL)
        runner.communicate()
        return True


def run_with_kills(cli, chance):
    """Start, kill, resume, kill, ... until a process comes to its end. Returns the number of kills."""
    args, kills = EXPERIMENT, 0
    while True:
        runner = cli.start(*args)
        if not cut(runner, chance.uniform(0.1, 3.0)):
            assert runner.returncode == 0
            return kills
        kills += 1
        assert kills < 100
        if (cli.run / "config.yaml").exists():
            args = [f"resume={cli.run}"]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_25_kills_change_nothing_leave_no_orphan_and_count_no_step_twice(tmp_path_factory):
    expected = run_to_end(Cli(tmp_path_factory.mktemp("peaceful")))
    chance, kills = random.Random(2605), 0
    while kills < 25:
        cli = Cli(tmp_path_factory.mktemp("killed"))
        kills += run_with_kills(cli, chance)
        assert_whole(cli, expected)


def test_a_run_that_was_killed_ends_as_if_it_had_been_left_in_peace(tmp_path_factory):
    expected = run_to_end(Cli(tmp_path_factory.mktemp("peaceful")))
    cli = Cli(tmp_path_factory.mktemp("killed"))
    assert run_with_kills(cli, random.Random(7)) > 0
    assert_whole(cli, expected)


def assert_whole(cli, expected):
    assert essence(cli) == expected
    steps = [entry["step"] for entry in cli.journal if entry["event"] == "done"]
    assert len(steps) == len(set(steps))
    deadline = time.monotonic() + 5
    while ours(cli.run) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert ours(cli.run) == []
    command = [sys.executable, "-m", "sia_runner.verify", str(cli.run)]
    verified = subprocess.run(command, capture_output=True, text=True, check=False)
    assert verified.returncode == 0, verified.stdout
