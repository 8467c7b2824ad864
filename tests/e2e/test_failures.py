"""What must never happen: each failure seen in the field ends with its exit code, its kind and one clear line."""

import contextlib
import os
import signal
import subprocess
import time

import psutil
import pytest

from tests.harnesses import CRASH, HEAD, LOOP, MAJORITY, RAREST, SILENT, SYNTAX, WORDS

NOT_SCORED, REFUSED, INTERRUPTED = 3, 2, 130
QUICK = ["task=smoke", "task.limits.run=3", "task.limits.gate=2"]


def generation(cli, n):
    return cli.summary["generations"][n - 1]


@pytest.mark.parametrize(
    ("harness", "reason"),
    [(CRASH, "nothing works here"), (SILENT, "no question was answered"), (SYNTAX, "SyntaxError"), (LOOP, "timeout")],
    ids=["crashes", "writes nothing", "does not parse", "loops for ever"],
)
def test_when_no_candidate_can_be_scored_the_run_fails_with_3_and_says_why(cli, harness, reason):
    done = cli(*QUICK, *cli.replay(harness))
    assert done.returncode == NOT_SCORED, done.stdout + done.stderr
    assert generation(cli, 1)["status"] == "failed" and reason in generation(cli, 1)["reason"]
    assert cli.summary["status"] == "failed" and cli.summary["best"] is None
    assert "inf" not in done.stdout and "no candidate could be scored" in done.stdout


def test_one_bad_generation_costs_nothing_but_itself(cli):
    done = cli(*QUICK, *cli.replay(MAJORITY, CRASH, RAREST, WORDS))
    assert done.returncode == 0, done.stdout + done.stderr
    assert [g["status"] for g in cli.summary["generations"]] == ["accepted", "failed", "rejected", "accepted"]
    best = cli.summary["best"]
    assert best["generation"] == 4 and best["test"]["value"] > best["baseline_test"]["value"]
    assert (cli.run / "best").resolve().name == "gen_4"


def test_a_crash_after_part_of_the_answers_keeps_them_and_counts_the_rest_as_crashed(cli):
    half = HEAD + "answer([(q['id'], commonest) for q in asked[: len(asked) // 2]])\nraise SystemExit(1)\n"
    cli(*QUICK, *cli.replay(half))
    outcomes = generation(cli, 1)["outcomes"]
    assert outcomes["crashed"] > 0 and outcomes["correct"] > 0
    assert sum(outcomes.values()) == generation(cli, 1)["val"]["n"]


def test_a_proposal_without_the_entry_program_is_a_failed_candidate_not_a_dead_run(cli):
    done = cli(*QUICK, *cli.replay(MAJORITY, {"a.py": "", "b.py": ""}, WORDS))
    assert done.returncode == 0, done.stdout + done.stderr
    assert [g["status"] for g in cli.summary["generations"]] == ["accepted", "failed", "accepted"]


def test_the_incumbent_is_kept_however_bad_the_last_generation_is(cli):
    cli(*QUICK, *cli.replay(WORDS, RAREST))
    assert cli.summary["best"]["generation"] == 1
    assert "worse" in generation(cli, 2)["reason"]


def test_an_equal_candidate_is_no_change_and_not_accepted(cli):
    cli(*QUICK, *cli.replay(WORDS, WORDS + "\n# another text, the same answers\n"))
    assert generation(cli, 2)["status"] == "rejected" and "no change" in generation(cli, 2)["reason"]


def test_test_is_scored_once_for_the_best_and_once_for_the_first(cli):
    cli(*QUICK, *cli.replay(MAJORITY, RAREST, WORDS))
    tested = [entry["step"] for entry in cli.journal if entry["event"] == "done" and entry["step"].startswith("test/")]
    assert sorted(tested) == ["test/gen_1", "test/gen_3"]
    assert all("test" not in str(g["val"]) for g in cli.summary["generations"])


def test_a_forged_results_file_is_never_read(cli):
    forge = (
        MAJORITY + "(work / 'results.json').write_text('{\"accuracy\": 1.0}')\n(work / 'scores.json').write_text('1')\n"
    )
    cli(*QUICK, *cli.replay(forge))
    assert generation(cli, 1)["val"]["value"] < 0.9


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
def test_a_refused_configuration_ends_with_2_and_leaves_nothing_so_that_a_retry_works(cli, wrong):
    done = cli(wrong)
    assert done.returncode == REFUSED
    assert done.stderr.startswith("refused: ") and len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert not cli.run.exists()
    assert cli("max_gen=1").returncode == 0


def test_a_run_directory_that_holds_a_run_is_never_written_over(cli):
    assert cli("max_gen=1").returncode == 0
    before = (cli.run / "journal.jsonl").read_bytes()
    again = cli("max_gen=1")
    assert again.returncode == REFUSED and "already holds a run" in again.stderr
    assert (cli.run / "journal.jsonl").read_bytes() == before


def test_two_processes_cannot_write_one_run(cli):
    slow = MAJORITY + "time.sleep(3)\n"
    first = cli.start("task=smoke", *cli.replay(slow))
    wait_for(lambda: (cli.run / "journal.jsonl").exists(), 20)
    second = cli(f"resume={cli.run}")
    assert second.returncode == REFUSED and f"process {first.pid}" in second.stderr
    assert first.wait(60) == 0, first.stdout.read()


def test_ctrl_c_finishes_the_journal_and_prints_the_resume_command(cli):
    slow = MAJORITY + "time.sleep(4)\n"
    runner = cli.start("task=smoke", *cli.replay(slow))
    wait_for(lambda: (cli.run / "gen_1" / "gate" / "work").exists(), 20)
    began = time.monotonic()
    runner.send_signal(signal.SIGINT)
    said = runner.communicate(timeout=20)[0]
    assert runner.returncode == INTERRUPTED and time.monotonic() - began < 3
    assert f"python -m sia_runner resume={cli.run}" in said
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


def test_resume_refuses_what_would_change_the_experiment(cli):
    assert cli("max_gen=1").returncode == 0
    done = cli(f"resume={cli.run}", "seed=4")
    assert done.returncode == REFUSED and "seed=4" in done.stderr and "max_gen" in done.stderr


def test_resume_with_a_larger_max_gen_goes_on(cli):
    assert cli("max_gen=2").returncode == 0
    assert cli(f"resume={cli.run}", "max_gen=3").returncode == 0
    assert len(cli.summary["generations"]) == 3 and cli.summary["status"] == "completed"


def test_a_spent_budget_still_tests_the_incumbent(cli):
    slow = MAJORITY + "time.sleep(1.2)\n"
    done = cli("task=smoke", *cli.replay(slow, WORDS, WORDS), "budget.minutes=0.01")
    assert done.returncode == 0, done.stdout + done.stderr
    assert cli.summary["status"] == "budget" and len(cli.summary["generations"]) == 1
    assert cli.summary["best"]["test"]["n"] > 0


def test_a_budget_spent_before_anything_was_scored_ends_with_4(cli):
    done = cli("task=smoke", *cli.replay("import time\ntime.sleep(1)\n", WORDS), "budget.minutes=0.01")
    assert done.returncode == 4, done.stdout + done.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to make a full disk (a tiny tmpfs)")
def test_a_full_disk_is_a_resumable_stop_and_nothing_is_lost(cli, tmp_path):
    disk = tmp_path / "small"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=200m", "none", str(disk)], check=False).returncode:
        pytest.skip("mounting a tmpfs is not permitted here")
    try:
        cli.run = disk / "run"
        runner = cli.start("task=smoke", *cli.replay(MAJORITY, WORDS, MAJORITY + "time.sleep(2)\n"))
        wait_for(lambda: (cli.run / "gen_3" / "gate" / "work").exists(), 30)
        fill(disk / "filler")
        said = runner.communicate(timeout=60)[0]
        assert runner.returncode == INTERRUPTED and "resume=" in said, said
        (disk / "filler").unlink()
        resumed = cli(f"resume={cli.run}")
        assert resumed.returncode == 0, resumed.stdout + resumed.stderr
        assert [g["status"] for g in cli.summary["generations"]] == ["accepted", "accepted", "rejected"]
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=False)


def fill(path):
    with path.open("wb", buffering=0) as stream, contextlib.suppress(OSError):
        while True:
            stream.write(bytes(4096))
