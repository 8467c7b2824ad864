"""Whole experiments with a language model as proposer and as target: they improve, survive kills, and add up."""

import json
import random
import signal
import subprocess
import sys
import time

import pytest

from sia_runner.tasks.protocol import TaskError
from tests.conftest import Cli
from tests.scripts import riddles
from tests.scripts.checks import essence
from tests.scripts.data import secrets
from tests.scripts.llm_run import LlmRun
from tests.scripts.serving import KEY


def assert_improved(cli):
    statuses = [g["status"] for g in cli.summary["generations"]]
    assert statuses == ["accepted", "accepted", "rejected", "accepted", "accepted"], cli.summary["generations"]
    best = cli.summary["best"]
    assert best["generation"] == 5
    assert best["test"]["value"] > best["baseline_test"]["value"]


def assert_adds_up(cli, tally):
    """The ledger's totals are the provider's own, to the token."""
    usage = cli.summary["usage"]
    assert (usage["calls"], usage["tokens"]) == (tally.calls, tally.input_tokens + tally.output_tokens)
    assert tally.answered == tally.calls
    assert not usage.get("unanswered")


def assert_nothing_leaked(cli, run):
    told = run.told
    leaked = [text for text in secrets(run.known) if text in told]
    assert not leaked, f"{len(leaked)} texts of val and test questions reached the proposer"
    for path in cli.run.rglob("*"):
        assert not path.is_file() or KEY["SIA_TEST_KEY"].encode() not in path.read_bytes(), path


def verified(cli):
    command = [sys.executable, "-m", "sia_runner", "verify", str(cli.run)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run of five generations on the riddles of the tests, and what its provider saw."""
    folder = tmp_path_factory.mktemp("finished")
    cli, run = Cli(folder), LlmRun(folder, riddles.make(folder), delay=0)
    run.serve()
    try:
        done = cli(*run.overrides(cli.run, "max_gen=5"), env=KEY)
        assert done.returncode == 0, done.stdout + done.stderr
        yield cli, run
    finally:
        run.end()


def test_five_generations_improve_the_harness_and_the_one_that_made_it_worse_is_rejected(finished):
    cli, _ = finished
    assert_improved(cli)
    verified(cli)


def test_the_ledger_equals_the_providers_own_count_of_calls_and_tokens(finished):
    cli, run = finished
    assert_adds_up(cli, run.tally)


def test_no_answer_or_question_of_val_or_test_reaches_the_proposer_and_no_key_the_run_directory(finished):
    assert_nothing_leaked(*finished)
    assert len(secrets(finished[1].known)) == 96  # so there was something to find


def test_what_a_proposer_may_not_reach_is_refused_in_words_and_never_done(finished):
    cli, run = finished
    assert run.told.count("leads out of evidence/ and harness/") >= 4  # three reads and one write
    assert "evidence/ is read-only" in run.told
    assert "root:x:0" not in run.told
    assert not list(cli.run.rglob("verifier.py"))


def test_a_proposal_that_does_not_parse_is_sent_back_and_mended(finished):
    cli, run = finished
    assert "not accepted: it does not parse" in run.told
    assert "def broken" not in (cli.run / "gen_4" / "harness" / "target_agent.py").read_text()


def test_wrong_tool_names_and_garbage_for_arguments_are_sent_back_with_the_reason(finished):
    _, run = finished
    assert "there is no tool run_shell" in run.told
    assert "Invalid JSON" in run.told
    assert "rationale: Field required" in run.told


def prepared(llm_run, task, **kwargs):
    try:
        return llm_run(task, **kwargs)
    except TaskError as error:
        pytest.skip(str(error))


def killed_and_resumed(cli, overrides, chance, longest):
    """Kill -9 after a random while, resume, and so on until a process comes to its end. Returns the number of kills."""
    kills, args = 0, overrides
    while True:
        runner = cli.start(*args)
        try:
            output, _ = runner.communicate(timeout=chance.uniform(1.5, longest))
        except subprocess.TimeoutExpired:
            runner.send_signal(signal.SIGKILL)
            runner.communicate()
            kills += 1
            assert kills < 60
        else:
            assert runner.returncode == 0, output
            return kills
        if (cli.run / "config.yaml").exists():
            args = [f"resume={cli.run}"]


def assert_at_least(cli, tally):
    """After a kill some calls had no answer that anybody saw: counted at what was reserved, and named as such."""
    usage = cli.summary["usage"]
    assert usage["calls"] >= tally.calls
    assert usage["tokens"] >= tally.input_tokens + tally.output_tokens
    assert usage["calls"] - usage["unanswered"] <= tally.answered


def in_peace(tmp_path_factory, run):
    cli = Cli(tmp_path_factory.mktemp("peaceful"))
    done = cli(*run.overrides(cli.run, "max_gen=5"), timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    assert_adds_up(cli, run.tally)
    return cli


def assert_same_after_kills(tmp_path_factory, run, peaceful, *, longest, seed):
    killed, before = Cli(tmp_path_factory.mktemp("killed")), run.tally
    assert killed_and_resumed(killed, run.overrides(killed.run, "max_gen=5"), random.Random(seed), longest) > 0
    assert essence(killed) == essence(peaceful)
    after = run.tally
    spent = {name: getattr(after, name) - getattr(before, name) for name in before.__slots__}
    assert_at_least(killed, type(before)(**spent))
    assert_nothing_leaked(killed, run)
    verified(killed)
    steps = [entry["step"] for entry in killed.journal if entry["event"] == "done"]
    assert len(steps) == len(set(steps))


@pytest.mark.slow
def test_kills_change_no_verdict_and_lose_no_call(tmp_path_factory, llm_run):
    run = prepared(llm_run, None, delay=0.05)
    assert_same_after_kills(tmp_path_factory, run, in_peace(tmp_path_factory, run), longest=4, seed=7)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("task", [["task=gpqa"], ["task=longcot_chess"]], ids=["gpqa", "longcot_chess"])
def test_a_shipped_task_improves_over_five_generations_under_64_concurrent_questions_whatever_is_killed(
    tmp_path_factory, llm_run, task
):
    run = prepared(llm_run, task, delay=0.2)
    cli = in_peace(tmp_path_factory, run)
    best = cli.summary["best"]
    assert best["test"]["value"] > best["baseline_test"]["value"], essence(cli)
    assert sum(g["status"] == "accepted" for g in cli.summary["generations"]) >= 3, essence(cli)
    assert_nothing_leaked(cli, run)
    verified(cli)
    assert_same_after_kills(tmp_path_factory, run, cli, longest=12, seed=11)


@pytest.mark.slow
def test_a_resumed_proposal_is_not_asked_for_twice(cli, llm_run):
    """What the model had said before the kill is replayed from the dialogue, unpaid."""
    run = llm_run()
    runner = cli.start(*run.overrides(cli.run, "max_gen=2"))
    wait_for_lines(cli.run / "gen_2" / "dialogue.jsonl", 2, runner)
    runner.send_signal(signal.SIGKILL)
    runner.communicate()
    done = cli(f"resume={cli.run}")
    assert done.returncode == 0, done.stdout + done.stderr
    assert_at_least(cli, run.tally)
    requests = [json.dumps(json.loads(line)["messages"]) for line in run.told.splitlines()]
    assert len(requests) - len(set(requests)) <= 1  # the call that was under way


def wait_for_lines(path, count, runner):
    while not path.is_file() or path.read_bytes().count(b"\n") < count:
        assert runner.poll() is None, runner.communicate()[0]
        time.sleep(0.01)
