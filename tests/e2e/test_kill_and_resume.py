"""Kill -9 at random moments, several in one run: the resumed run ends as the one that was left in peace."""

import random
import signal
import subprocess
import time

import psutil
import pytest

KILLS, RUNS = 26, 6


def run_to_end(cli):
    assert cli("max_gen=4", "seed=3").returncode == 0
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


@pytest.mark.timeout(600)
def test_25_kills_change_nothing_leave_no_orphan_and_count_no_step_twice(tmp_path_factory):
    from tests.conftest import Cli

    peaceful = Cli(tmp_path_factory.mktemp("peaceful"))
    began = time.monotonic()
    expected = run_to_end(peaceful)
    whole = time.monotonic() - began
    chance, kills = random.Random(2605), 0
    for number in range(RUNS):
        cli = Cli(tmp_path_factory.mktemp(f"killed{number}"))
        args = ["max_gen=4", "seed=3"]
        for _ in range(-(-KILLS // RUNS)):
            runner = cli.start(*args)
            try:
                runner.wait(chance.uniform(0.05, whole))
            except subprocess.TimeoutExpired:
                runner.send_signal(signal.SIGKILL)
                runner.wait()
                kills += 1
            runner.stdout.close()
            if (cli.run / "config.yaml").exists():
                args = [f"resume={cli.run}"]
        done = cli(*args)
        assert done.returncode == 0, done.stdout + done.stderr
        assert essence(cli) == expected
        steps = [entry["step"] for entry in cli.journal if entry["event"] == "done"]
        assert len(steps) == len(set(steps))
        deadline = time.monotonic() + 5
        while ours(cli.run) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert ours(cli.run) == []
        verified = subprocess.run(
            [*cli.command()[:2], "sia_runner.verify", str(cli.run)], capture_output=True, text=True, check=False
        )
        assert verified.returncode == 0, verified.stdout
    assert kills >= 20
