"""A verifier's way to run a program in the sandbox: what it says is bounded, and it never outlives the question."""

import json
import time
from pathlib import Path

import pytest

from sia_runner.config.composition import compose_overrides
from sia_runner.config.experiment import check_experiment
from sia_runner.config.task import TableTaskConfig as Spec
from sia_runner.experiment import verifier_sandbox
from sia_runner.experiment.context import Components
from sia_runner.records import OutcomeKind
from sia_runner.tasks import process
from sia_runner.tasks.protocol import TaskError
from sia_runner.tasks.submission_sandbox import ProgramEndedError, SubmissionSandbox, SubmissionSandboxError
from sia_runner.tasks.table import TableTask
from tests.tasks.making import ends, spec, write_csv

HEAD = """\
import argparse, json, os
parser = argparse.ArgumentParser()
parser.add_argument("--dataset_dir")
parser.add_argument("--working_dir")
os.chdir(parser.parse_args().working_dir)
asks, answers = open("asks"), open("answers", "w")
def answer(message):
    print(json.dumps(message), file=answers, flush=True)
"""
ECHO = HEAD + "for line in asks:\n    answer({'heard': json.loads(line), 'pid': os.getpid()})\n"


@pytest.fixture(scope="module")
def command():
    return verifier_sandbox.sandbox_command(Components(check_experiment(compose_overrides(["task=smoke"]))))


@pytest.fixture
def run(command):
    def start(body, seconds=20.0):
        return SubmissionSandbox(command).run({"driver.py": body.encode()}, "driver.py", seconds)

    return start


def test_a_program_in_the_sandbox_is_asked_and_answers(run):
    with run(ECHO) as inside:
        assert inside.ask({"one": 1}, 20)["heard"] == {"one": 1}
        assert inside.ask({"two": [2]}, 20)["heard"] == {"two": [2]}


def test_it_sees_nothing_of_the_verifier(run, tmp_path):
    """That a file is there may be seen in a sandbox without a file system of its own; what is in it never."""
    (tmp_path / "gold").write_text("secret")
    body = HEAD + (
        f"try: read = open({str(tmp_path / 'gold')!r}).read()\n"
        "except OSError as error: read = type(error).__name__\n"
        "answer({'read': read, 'env': sorted(os.environ)})\nasks.read()\n"
    )
    with run(body) as inside:
        seen = inside.hear(20)
    assert seen["read"] in ("FileNotFoundError", "PermissionError")
    assert "SIA_CACHE" not in seen["env"]


@pytest.mark.parametrize(
    ("body", "ending"),
    [
        ("raise SystemExit(3)\n", "exited"),
        (HEAD + "answers.write('{' * 1_000_000)\n", "gibberish"),
        (HEAD + "answers.write('no json\\n'); answers.flush(); asks.read()\n", "gibberish"),
        (HEAD + "answer([1]); asks.read()\n", "gibberish"),
        (HEAD + "os.unlink('answers'); os.mkfifo('answers'); asks.read()\n", "late"),
    ],
)
def test_what_is_no_answer_is_told_apart(run, body, ending):
    with run(body) as inside, pytest.raises(ProgramEndedError) as gone:
        inside.ask({}, 3 if ending == "late" else 20)
    assert gone.value.ending == ending


def test_its_time_is_bounded_as_a_harness_is(run):
    with run(HEAD + "asks.read()\n", seconds=2.0) as inside, pytest.raises(ProgramEndedError) as gone:
        inside.hear(30)
    assert gone.value.ending == "timeout"


def test_it_is_taken_down_when_nobody_asks_any_more(command, run):
    began = time.monotonic()
    with run(ECHO, seconds=600) as inside:
        inside.ask({}, 20)
        process = inside._process.pid
        where = inside.work
    assert ends(process)
    assert not where.exists()
    assert time.monotonic() - began < 60


def test_without_a_sandbox_nothing_runs():
    with pytest.raises(SubmissionSandboxError, match="no sandbox"), SubmissionSandbox([]).run({}, "driver.py", 1):
        pass


def test_a_machine_without_memory_is_not_the_submissions_fault():
    report = {"ending": "machine_out_of_memory", "exit_code": 137, "detail": "killed by the kernel"}
    with (
        SubmissionSandbox(["sh", "-c", f"read job; echo '{json.dumps(report)}'"]).run({}, "driver.py", 20) as inside,
        pytest.raises(SubmissionSandboxError, match="killed by the kernel"),
    ):
        inside.hear(20)


def test_a_sandbox_on_another_machine_is_refused_before_anything_runs():
    """Pipes in work/ do not lead there: each submission would look as if its program had crashed."""

    def check(task, *sandbox):
        verifier_sandbox.check_machine(Components(check_experiment(compose_overrides([task, *sandbox]))))

    elsewhere = ["sandbox=ssh", "sandbox.host=example.org", "sandbox.user=me"]
    check("task=trimul", "task.requires=[]")
    check("task=smoke", *elsewhere)
    with pytest.raises(TaskError, match="task=trimul with sandbox=ssh: .*allowed: a sandbox here"):
        check("task=trimul", "task.requires=[]", *elsewhere)


VERIFIER = """\
from sia_runner.records import Outcome, OutcomeKind

def verify(submission, answers, questions, chamber):
    files = {"driver.py": (submission / "submission.py").read_bytes()}
    with chamber.run(files, "driver.py", 20) as inside:
        return [Outcome(unit, OutcomeKind.CORRECT, float(inside.ask({"x": 2}, 20)["heard"]["x"])) for unit in answers]
"""


def test_a_task_whose_submission_is_code_hands_it_to_its_verifier(tmp_path, command):
    write_csv(tmp_path / "labelled.csv", ("id", "text", "label"), [(i, f"text {i}", "ab"[i % 2]) for i in range(40)])
    (tmp_path / "verifier.py").write_text(VERIFIER)
    metric = {"name": "value", "verifier": "python"}
    task = TableTask(
        spec(tmp_path, metric=metric, runs_submission=True, submission="submission.py"), 0, tmp_path / "cache"
    )
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "submission.py").write_text(ECHO)
    assert task.executes
    [outcome] = task.verify(tmp_path / "kept", {"q": "1"}, OutcomeKind.NO_ANSWER, command)
    assert (outcome.kind, outcome.value) == (OutcomeKind.CORRECT, 2.0)
    [outcome] = task.verify(tmp_path / "kept", {"q": "1"}, OutcomeKind.NO_ANSWER)
    assert outcome.kind is OutcomeKind.VERIFIER_ERROR


def test_a_task_that_needs_a_gpu_is_refused_where_the_sandbox_shows_none():
    config = check_experiment(compose_overrides(["task=trimul_gpu"]))
    with pytest.raises(TaskError, match="task=trimul_gpu.*sandbox=auto"):
        verifier_sandbox.check_gpu(config, here=True)
    assert isinstance(config.task, Spec)
    verifier_sandbox.check_gpu(check_experiment(compose_overrides(["task=trimul"])), here=True)


def test_the_verifier_itself_sees_the_gpu_that_the_sandbox_was_given_and_nothing_else(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    worker = process._start_worker()
    try:
        # Popen returns once the new program's descriptors are set up, a moment before the kernel shows its environment
        until = time.monotonic() + 60
        while not (shown := Path(f"/proc/{worker.pid}/environ").read_bytes()) and time.monotonic() < until:
            time.sleep(0.001)
        environment = shown.split(b"\0")
    finally:
        worker.kill()
        worker.communicate()
    assert sorted(filter(None, environment)) == [b"CUDA_VISIBLE_DEVICES=3", b"LC_ALL=C.UTF-8"]
