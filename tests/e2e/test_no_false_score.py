"""Whole runs in which a question fails for a reason that is not the candidate's: it costs no candidate anything."""

import os
import subprocess
import sys

import pytest

from tests.provider import Answer, Malformed, ProviderServer, Status
from tests.scripts import riddles
from tests.scripts.harnesses import NAIVE, STEPS, harness
from tests.scripts.serving import KEY, use

INTERRUPTED = 130
FAST = ["provider.attempts=2", "provider.max_wait_seconds=0.1"]
BROKEN_OFF = Malformed('{"choices": [{"message": {"content": "Answer: x"}, "finish_reason": "error"}]}')


@pytest.fixture
def task(tmp_path):
    return riddles.make(tmp_path)


def said(done):
    return " ".join((done.stdout + done.stderr).split())


def run(cli, task, *overrides):
    return cli(*task, *overrides, f"hydra.run.dir={cli.run}", env=KEY)


def command(*arguments):
    environment = {**os.environ, **KEY}
    called = [sys.executable, "-m", "sia_runner", *arguments]
    return subprocess.run(called, capture_output=True, text=True, env=environment, check=False)


def few(reaction):
    """A provider that fails a few questions for good, fewer in a row than it takes to stop the run."""

    def script(request):
        ring = int(request.last.split("ring ")[1].split()[0])
        return reaction if ring % 12 == 0 else Answer("Answer: no")

    return script


LIMITED = Status(429, message="slow down")


@pytest.mark.parametrize("reaction", [BROKEN_OFF, pytest.param(LIMITED, marks=pytest.mark.slow)])
def test_a_candidate_of_whose_calls_some_fail_is_unscored_with_the_providers_words(cli, task, reaction):
    with ProviderServer(few(reaction)) as server:
        done = run(cli, task, *use(server.base_url), *FAST, *cli.replay(harness(NAIVE)))
    (generation,) = cli.summary["generations"]
    assert generation["status"] == "unscored" and generation["val"] is None, said(done)
    assert ("'error'" if reaction is BROKEN_OFF else "slow down") in generation["reason"]


def test_when_all_requests_are_refused_alike_the_run_stops_at_once_and_can_be_resumed(cli, task):
    refused = Status(400, message="max_tokens=8192 is larger than the context of 4096 tokens")
    with ProviderServer(lambda _: refused) as server:
        done = run(cli, task, *use(server.base_url), *FAST, *cli.replay(harness(NAIVE)))
        assert done.returncode == INTERRUPTED and refused.message in said(done)
        assert cli.summary["generations"] == []
        server.script = lambda _: Answer("Answer: no")
        done = cli(f"resume={cli.run}", env=KEY)
    assert done.returncode == 0, said(done)


def test_a_candidate_whose_own_requests_are_refused_is_unscored_with_the_words_and_the_run_goes_on(cli, task):
    refused = Status(422, message="parameter top_k is not supported")
    odd = harness(STEPS).replace('"max_tokens": 300', '"max_tokens": 301')
    with ProviderServer(lambda r: refused if r.body["max_tokens"] == 301 else Answer("Answer: no")) as server:
        replayed = cli.replay(harness(NAIVE), odd, harness(STEPS))
        done = run(cli, task, *use(server.base_url), *FAST, *replayed)
    assert done.returncode == 0, said(done)
    assert [g["status"] for g in cli.summary["generations"]] == ["accepted", "unscored", "rejected"]
    assert "top_k is not supported" in cli.summary["generations"][1]["reason"]


def test_a_proposer_whose_first_request_is_refused_stops_the_run_instead_of_failing_every_generation(cli, task):
    refused = Status(400, message="this model does not support tools")
    with ProviderServer(lambda request: refused if request.tools else Answer("Answer: no")) as server:
        done = run(cli, task, *use(server.base_url), "meta_agent=llm", "max_gen=4")
        assert done.returncode == INTERRUPTED and "does not support tools" in said(done)
        assert len(server.requests) == 1
        doctor = command("doctor", "--call", *task, *use(server.base_url), "meta_agent=llm")
    assert doctor.returncode == 1 and "does not support tools" in doctor.stdout


def test_calls_that_a_harness_does_not_wait_for_are_said(cli, task):
    hasty = harness(NAIVE).replace("urlopen(request)", "urlopen(request, timeout=0.3)")
    with ProviderServer(few(Answer("Answer: no", delay=1.0))) as server:
        done = run(cli, task, *use(server.base_url), *cli.replay(hasty))
    (generation,) = cli.summary["generations"]
    assert generation["outcomes"].get("timeout"), said(done)
    assert "not waited for" in generation["reason"]


VERIFIER = """
import csv
from sia_runner.records import Outcome, OutcomeKind


def verify(submission, answers):
    rows = dict(csv.reader((submission / "submission.csv").open()))
    for name, gold in answers.items():
        right = rows.get(name) == gold
        yield Outcome(name, OutcomeKind.CORRECT if right else OutcomeKind.WRONG, float(right), rows.get(name, ""))


def aggregate(outcomes):
    if any(outcome.prediction == "bad" for outcome in outcomes):
        VALUE
    return sum(outcome.value for outcome in outcomes) / len(outcomes)
"""
CONSTANT = """
import csv, sys
rows = csv.DictReader(open(sys.argv[sys.argv.index("--dataset_dir") + 1] + "/questions.csv"))
out = open(sys.argv[sys.argv.index("--working_dir") + 1] + "/submission.csv", "w")
csv.writer(out).writerows([("id", "answer"), *((row["id"], "ANSWER") for row in rows)])
"""
BAD_VALUES = ["return float('nan')", "return float('-inf')", "return None", "return 'high'", "raise RuntimeError"]


@pytest.mark.parametrize(
    "bad", [pytest.param(bad, marks=[pytest.mark.slow] if number else []) for number, bad in enumerate(BAD_VALUES)]
)
def test_an_aggregate_that_gives_no_number_leaves_its_candidate_unscored_and_the_run_goes_on(cli, task, tmp_path, bad):
    (tmp_path / "riddles" / "verifier.py").write_text(VERIFIER.replace("VALUE", bad))
    replayed = cli.replay(*(CONSTANT.replace("ANSWER", answer) for answer in ("bad", "good", "bad")))
    done = run(cli, task, "task.metric.verifier=python", *replayed)
    assert done.returncode == 0, said(done)
    assert [g["status"] for g in cli.summary["generations"]] == ["unscored", "accepted", "unscored"]
    assert "aggregate()" in cli.summary["generations"][0]["reason"]
    assert cli.summary["best"]["generation"] == 2
    assert cli(f"resume={cli.run}").returncode == 0
