"""The naive start of the GPQA task, with made-up questions and a model on a server of this machine."""

import csv
import os
import subprocess
import sys

import pytest

from sia_runner.records import OutcomeKind
from sia_runner.system import bundled_folder
from sia_runner.tasks.verifiers.answers import letter_in_text

pytest.importorskip("openai", reason="NOT CHECKED: openai is not installed (pip install 'sia-runner[models]')")
from tests.provider import Answer, ProviderServer, Reset, Status

PROGRAM = bundled_folder("tasks") / "gpqa" / "reference" / "target_agent.py"
HEADER = ("id", "question", "A", "B", "C", "D", "domain", "subdomain")
REPLIES = {
    "0": Answer("B"),
    "1": Answer("The right answer is (D)."),
    "2": Answer("Because it has four, the answer is B."),
    "3": Answer(""),
    "4": Status(400),
    "5": Reset(),
    **{str(i): Answer("C", delay=0.2) for i in range(6, 30)},
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """(answers by id, requests, peak of calls at once)."""
    folder = tmp_path_factory.mktemp("view")
    with (folder / "questions.csv").open("w", encoding="utf-8", newline="") as stream:
        rows = [
            (i, f"How many legs has\nanimal {i}?", "two", "four", "six, or so", "eight", "Biology", "Legs")
            for i in REPLIES
        ]
        csv.writer(stream).writerows([HEADER, *rows])
    with ProviderServer(lambda request: REPLIES[request.body["user"]]) as server:
        env = {"OPENAI_BASE_URL": server.base_url, "OPENAI_API_KEY": "test-key", "SIA_MODEL": "scripted"}
        command = [sys.executable, str(PROGRAM), "--dataset_dir", str(folder), "--working_dir", str(folder)]
        done = subprocess.run(
            command, env={"PATH": os.environ["PATH"], **env}, capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 0, done.stderr
        requests = list(server.requests)
    with (folder / "submission.csv").open(encoding="utf-8", newline="") as stream:
        return {row["id"]: row["answer"] for row in csv.DictReader(stream)}, requests


def test_every_question_is_asked_once_under_its_own_id_with_all_four_options(finished):
    _, requests = finished
    assert sorted(int(request.body["user"]) for request in requests) == list(range(30))
    assert all(
        option in request.messages[-1]["content"]
        for request in requests
        for option in ("two", "four", "six, or so", "eight")
    )


def test_the_verifier_finds_the_letter_in_the_reply(finished):
    answers, _ = finished
    judge = letter_in_text(["A", "B", "C", "D"])
    for unit, gold in (("0", "B"), ("1", "D"), ("2", "B"), ("29", "C")):
        assert judge(answers[unit], gold)[0] is OutcomeKind.CORRECT


def test_calls_that_fail_leave_their_question_open_and_the_file_complete(finished):
    answers, _ = finished
    assert len(answers) == 30
    assert [name for name, answer in answers.items() if not answer] == ["3", "4", "5"]
