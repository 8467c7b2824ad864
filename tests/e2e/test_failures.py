"""Failures seen in the field: each ends with its exit code, its kind and one clear line."""

import contextlib
import os
import signal
import subprocess
import time

import psutil
import pytest

from tests.conftest import Cli
from tests.harnesses import CRASH, HEAD, LOOP, MAJORITY, RAREST, SILENT, SYNTAX, WORDS

NOT_SCORED, REFUSED, INTERRUPTED = 3, 2, 130
QUICK = ["task=smoke", "task.limits.run=3", "task.limits.gate=2"]


def generation(cli, n):
    return cli.summary["generations"][n - 1]


def in_gate(seconds):
    """Where a harness takes its time; what follows would only be waited for."""
    return f"time.sleep({seconds} if len(asked) < 20 else 0)\n"


def test_when_no_candidate_can_be_scored_the_run_fails_with_3_and_says_why(cli):
    done = cli(*QUICK, *cli.replay(CRASH, SILENT, SYNTAX, LOOP))
    assert done.returncode == NOT_SCORED, done.stdout + done.stderr
    reasons = ["nothing works here", "no question was answered", "SyntaxError", "timeout"]
    for n, reason in enumerate(reasons, 1):
        assert generation(cli, n)["status"] == "failed" and reason in generation(cli, n)["reason"]
    assert cli.summary["status"] == "failed" and cli.summary["best"] is None
    assert "inf" not in done.stdout and "no candidate could be scored" in done.stdout


FORGED = RAREST + (
    "(work / 'results.json').write_text('{\"accuracy\": 1.0}')\n(work / 'scores.json').write_text('1')\n"
)
HALF = HEAD + "answer([(q['id'], commonest) for q in asked[: len(asked) // 2]])\nraise SystemExit(1)\n"
NO_ENTRY = {"a.py": "", "b.py": ""}


@pytest.fixture(scope="module")
def eventful(tmp_path_factory):
    """A run in which nearly everything goes wrong, one thing a generation; two of them are as they should be."""
    cli = Cli(tmp_path_factory.mktemp("eventful"))
    again = WORDS + "\n# another text, the same answers\n"
    done = cli(*QUICK, *cli.replay(MAJORITY, CRASH, NO_ENTRY, WORDS, HALF, again, FORGED))
    assert done.returncode == 0, done.stdout + done.stderr
    return cli


def test_one_bad_generation_costs_nothing_but_itself(eventful):
    statuses = [g["status"] for g in eventful.summary["generations"]]
    assert statuses[:5] == ["accepted", "failed", "failed", "accepted", "rejected"]
    best = eventful.summary["best"]
    assert best["test"]["value"] > best["baseline_test"]["value"]
    assert (eventful.run / "best").resolve().name == "gen_4"


def test_a_proposal_without_the_entry_program_is_a_failed_candidate_not_a_dead_run(eventful):
    assert generation(eventful, 3)["status"] == "failed" and "target_agent.py" in generation(eventful, 3)["reason"]


def test_a_crash_after_part_of_the_answers_keeps_them_and_counts_the_rest_as_crashed(eventful):
    outcomes = generation(eventful, 5)["outcomes"]
    assert outcomes["crashed"] > 0 and outcomes["correct"] > 0
    assert sum(outcomes.values()) == generation(eventful, 5)["val"]["n"]


def test_an_equal_candidate_is_no_change_and_not_accepted(eventful):
    assert generation(eventful, 6)["status"] == "rejected" and "no change" in generation(eventful, 6)["reason"]


def test_a_forged_results_file_is_never_read(eventful):
    assert generation(eventful, 7)["val"]["value"] < 0.5


def test_the_incumbent_is_kept_however_bad_the_last_generation_is(eventful):
    assert eventful.summary["best"]["generation"] == 4
    assert "worse" in generation(eventful, 7)["reason"]


def test_test_is_scored_once_for_the_best_and_once_for_the_first(eventful):
    entries = [entry for entry in eventful.journal if entry["event"] == "done"]
    tested = [entry["step"] for entry in entries if entry["step"].startswith("test/")]
    assert sorted(tested) == ["test/gen_1", "test/gen_4"]
    assert all("test" not in str(g["val"]) for g in eventful.summary["generations"])


def test_a_grandchild_that_holds_stdout_does_not_hold_the_loop(cli):
    hold = MAJORITY + "import subprocess\nsubprocess.Popen(['sleep', '1000'], start_new_session=True)\n"
    began = time.monotonic()
    assert cli(*QUICK, *cli.replay(hold)).returncode == 0
    assert time.monotonic() - began < 30
    assert not sleepers("1000")


def sleepers(seconds):
    return [p for p in psutil.process_iter(["cmdline"]) if p.info["cmdline"] == ["sleep", seconds]]


def test_killing_the_runner_leaves_no_target_agent_behind(cli):
    slow = MAJORITY + "import subprocess\nsubprocess.Popen(['sleep', '1001'], start_new_session=True)\ntime.sleep(60)\n"
    runner = cli.start("task=smoke", *cli.replay(slow), "task.limits.gate=60")
    wait_for(lambda: sleepers("1001"), 30)
    runner.send_signal(signal.SIGKILL)
    runner.wait()
    wait_for(lambda: not sleepers("1001"), 10)


def wait_for(condition, seconds):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.05)


def test_output_without_end_and_invalid_utf8_cost_neither_memory_nor_the_generation(cli):
    noisy = MAJORITY + "for _ in range(64): os.write(1, b'\\xff\\x00x' * (1 << 20))\n"
    done = cli(*QUICK, *cli.replay(noisy))
    assert done.returncode == 0, done.stdout + done.stderr
    log = cli.run / "gen_1" / "stdout.log"
    assert log.stat().st_size < 3 * 1024 * 1024
    assert generation(cli, 1)["status"] == "accepted"


def test_no_secret_of_the_runner_reaches_a_target_agent(cli):
    show = MAJORITY + (
        "print(dict(os.environ))\n"
        "for p in pathlib.Path('/proc').glob('[0-9]*/environ'):\n"
        "    print(p.read_bytes() if os.access(p, os.R_OK) else '')\n"
    )
    secrets = {"ANTHROPIC_API_KEY": "sk-very-secret", "MY_TOKEN": "sk-very-secret"}
    done = cli(*QUICK, *cli.replay(show), env=secrets)
    assert done.returncode == 0, done.stdout + done.stderr
    for path in cli.run.rglob("*"):
        assert not path.is_file() or b"sk-very-secret" not in path.read_bytes(), path


@pytest.mark.parametrize("wrong", ["max_gen=0", "max_gen=x", "task=lawbenhc", "sandbox.cpuz=1", "+surprise=1"])
def test_a_refused_configuration_ends_with_2_in_one_line_and_leaves_nothing(cli, wrong):
    done = cli(wrong)
    assert done.returncode == REFUSED
    assert done.stderr.startswith("refused: ") and len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert not cli.run.exists()


@pytest.fixture(scope="module")
def ended(tmp_path_factory):
    """A run of one generation that ended well. To be looked at, not changed."""
    cli = Cli(tmp_path_factory.mktemp("ended"))
    assert cli("max_gen=0").returncode == REFUSED
    assert cli("max_gen=1").returncode == 0, "what was refused stands in the way of a retry"
    return cli


def test_a_run_directory_that_holds_a_run_is_never_written_over(ended):
    before = (ended.run / "journal.jsonl").read_bytes()
    again = ended("max_gen=1")
    assert again.returncode == REFUSED and "already holds a run" in again.stderr
    assert (ended.run / "journal.jsonl").read_bytes() == before


def test_two_processes_cannot_write_one_run(cli):
    slow = MAJORITY + in_gate(3)
    first = cli.start("task=smoke", *cli.replay(slow))
    wait_for(lambda: (cli.run / "journal.jsonl").exists(), 20)
    second = cli(f"resume={cli.run}")
    assert second.returncode == REFUSED and f"process {first.pid}" in second.stderr
    assert first.wait(60) == 0, first.stdout.read()


def test_ctrl_c_finishes_the_journal_and_prints_the_resume_command(cli):
    slow = MAJORITY + in_gate(4)
    runner = cli.start("task=smoke", *cli.replay(slow))
    wait_for(lambda: (cli.run / "gen_1" / "gate" / "work").exists(), 20)
    began = time.monotonic()
    runner.send_signal(signal.SIGINT)
    output = runner.communicate(timeout=20)[0]
    assert runner.returncode == INTERRUPTED and time.monotonic() - began < 3
    assert f"python -m sia_runner resume={cli.run}" in output
    assert cli.summary["status"] == "interrupted" and cli.journal[-1]["event"] == "interrupted"
    assert cli(f"resume={cli.run}").returncode == 0
    assert cli.summary["status"] == "completed"


def test_a_second_ctrl_c_stops_at_once(cli):
    slow = MAJORITY + "time.sleep(30)\n"
    runner = cli.start("task=smoke", *cli.replay(slow), "task.limits.gate=60")
    wait_for(lambda: (cli.run / "gen_1" / "gate" / "work").exists(), 20)
    runner.send_signal(signal.SIGINT)
    runner.send_signal(signal.SIGINT)
    runner.communicate(timeout=10)
    assert runner.returncode == INTERRUPTED


def test_resume_refuses_what_would_change_the_experiment(ended):
    done = ended(f"resume={ended.run}", "seed=4")
    assert done.returncode == REFUSED and "seed=4" in done.stderr and "max_gen" in done.stderr


def test_resume_with_a_larger_max_gen_goes_on(cli):
    assert cli("max_gen=1").returncode == 0
    assert cli(f"resume={cli.run}", "max_gen=2").returncode == 0
    assert len(cli.summary["generations"]) == 2 and cli.summary["status"] == "completed"


def test_a_spent_budget_still_tests_the_incumbent(cli):
    slow = MAJORITY + in_gate(1.2)
    done = cli("task=smoke", *cli.replay(slow, WORDS, WORDS), "budget.minutes=0.01")
    assert done.returncode == 0, done.stdout + done.stderr
    assert cli.summary["status"] == "budget" and len(cli.summary["generations"]) == 1
    assert cli.summary["best"]["test"]["n"] > 0


def test_a_budget_spent_before_anything_was_scored_ends_with_4(cli):
    done = cli("task=smoke", *cli.replay(HEAD + in_gate(1), WORDS), "budget.minutes=0.01")
    assert done.returncode == 4, done.stdout + done.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to make a full disk (a tiny tmpfs)")
def test_a_full_disk_is_a_resumable_stop_and_nothing_is_lost(cli, tmp_path):
    disk = tmp_path / "small"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=200m", "none", str(disk)], check=False).returncode:
        pytest.skip("mounting a tmpfs is not permitted here")
    try:
        cli.run = disk / "run"
        runner = cli.start("task=smoke", *cli.replay(WORDS, MAJORITY + "time.sleep(2)\n"))
        answered = cli.run / "gen_2" / "gate" / "work" / "submission.csv"
        wait_for(answered.exists, 30)  # so that what finds the disk full is the runner and not the harness
        fill(disk / "filler")
        output = runner.communicate(timeout=60)[0]
        assert runner.returncode == INTERRUPTED and "resume=" in output, output
        (disk / "filler").unlink()
        resumed = cli(f"resume={cli.run}")
        assert resumed.returncode == 0, resumed.stdout + resumed.stderr
        assert [g["status"] for g in cli.summary["generations"]] == ["accepted", "rejected"]
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=False)


def fill(path):
    with path.open("wb", buffering=0) as stream:
        for block in (bytes(1 << 20), bytes(4096)):
            with contextlib.suppress(OSError):
                while stream.write(block):
                    pass
