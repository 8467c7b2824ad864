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
SHORTER = ["max_gen=3", "seed=3"]


def run_to_end(cli, experiment):
    assert cli(*experiment).returncode == 0
    return essence(cli)


def essence(cli):
    """Return everything that may not depend on kills: verdicts, scores, outcomes, the tested result."""
    keep = ("n", "lever", "title", "status", "reason", "val", "outcomes")
    return [{key: g[key] for key in keep} for g in cli.summary["generations"]], cli.summary["best"]


def ours(run):
    """Processes that still mention this run directory."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        if any(str(run) in part for part in process.info["cmdline"] or []):
            found.append(process)
    return found


def journaled(cli):
    path = cli.run / "journal.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def cut(cli, runner, lines, seconds):
    """Kill -9 `seconds` after the journal has grown by so many lines; return False when the run had ended by then.

    By seconds alone, a run on a busy machine would never make progress.
    """
    wanted = journaled(cli) + lines
    while journaled(cli) < wanted and runner.poll() is None:
        time.sleep(0.01)
    try:
        runner.communicate(timeout=seconds)
        return False
    except subprocess.TimeoutExpired:
        runner.send_signal(signal.SIGKILL)
        runner.communicate()
        return True


def run_with_kills(cli, experiment, chance):
    """Start, kill, resume, kill, ... until a process comes to its end. Returns the number of kills."""
    args, kills = experiment, 0
    while True:
        runner, lines = cli.start(*args), chance.randrange(24)  # a generation is 12 lines
        if not cut(cli, runner, lines, chance.uniform(0, 0.4 if lines else 1)):
            assert runner.returncode == 0
            return kills
        kills += 1
        assert kills < 100
        if (cli.run / "config.yaml").exists():
            args = [f"resume={cli.run}"]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_25_kills_change_nothing_leave_no_orphan_and_count_no_step_twice(tmp_path_factory):
    expected = run_to_end(Cli(tmp_path_factory.mktemp("peaceful")), EXPERIMENT)
    chance, kills = random.Random(2605), 0
    while kills < 25:
        cli = Cli(tmp_path_factory.mktemp("killed"))
        kills += run_with_kills(cli, EXPERIMENT, chance)
        assert_whole(cli, expected)


def test_a_run_that_was_killed_ends_as_if_it_had_been_left_in_peace(tmp_path_factory):
    expected = run_to_end(Cli(tmp_path_factory.mktemp("peaceful")), SHORTER)
    cli = Cli(tmp_path_factory.mktemp("killed"))
    assert run_with_kills(cli, SHORTER, random.Random(1)) > 2
    assert_whole(cli, expected)


def assert_whole(cli, expected):
    assert essence(cli) == expected
    steps = [entry["step"] for entry in cli.journal if entry["event"] == "done"]
    assert len(steps) == len(set(steps))
    deadline = time.monotonic() + 5
    while ours(cli.run) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert ours(cli.run) == []
    command = [sys.executable, "-m", "sia_runner", "verify", str(cli.run)]
    verified = subprocess.run(command, capture_output=True, text=True, check=False)
    assert verified.returncode == 0, verified.stdout
