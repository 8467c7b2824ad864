"""Task folders of Harbor and Terminal-Bench: their own tests judge, in a sandbox, what a harness left."""

import json
import os
from pathlib import Path

import pytest

from sia_runner.config.composition import compose_overrides
from sia_runner.config.experiment import check_experiment
from sia_runner.config.task import HarborTaskConfig
from sia_runner.experiment import verifier_sandbox
from sia_runner.experiment.context import Components
from sia_runner.records import OutcomeKind
from sia_runner.tasks.harbor_task import HarborTask
from sia_runner.tasks.protocol import TaskError
from tests.provider import Answer, ProviderServer
from tests.scripts.serving import KEY, use
from tests.tasks.making import read_csv

SETTINGS = 'schema_version = "1.2"\n[verifier]\ntimeout_sec = 20.0\n[environment]\ncpus = 1\n'
# as Harbor's own template has it: absolute paths, and the reward in a file
TEST = """#!/bin/bash
mkdir -p /logs/verifier
if [ "$(cat /app/sum.txt)" = "$(cat /tests/expected)" ]; then echo 1 > /logs/verifier/reward.txt
elif [ -s /app/sum.txt ]; then echo 0.25 > /logs/verifier/reward.txt
else echo 0 > /logs/verifier/reward.txt
fi
echo "expected $(cat /tests/expected)"
"""


def write(folder, **files):
    for name, text in files.items():
        path = folder / name.replace("__", "/").replace("_dot_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def sums(folder, count):
    """Task folders: the sum of two numbers that lie in a file of the environment."""
    for n in range(count):
        task = folder / f"sum-{n:02}"
        write(
            task, task_dot_toml=SETTINGS, instruction_dot_md=f"Write the sum of /app/numbers.txt ({n}) to /app/sum.txt."
        )
        write(
            task, environment__Dockerfile="FROM python:3.12\nCOPY . /app\n", environment__numbers_dot_txt=f"{n} 100\n"
        )
        write(task, tests__test_dot_sh=TEST, tests__expected=f"{n + 100}\n", solution__solve_dot_sh="echo secret\n")
    return folder


def load(folder, tmp_path, **changes):
    section = {"name": "harbor", "_target_": "sia_runner.tasks.harbor_task.HarborTask", "dir": str(folder)}
    section["splits"] = {"dev": 0.2, "val": 0.4, "test": 0.4, "stratify": False}
    task = HarborTask(HarborTaskConfig.model_validate(section | changes), 0, tmp_path / "cache")
    said = []
    task.prepare(said.append)
    return task, said


def judged(task, tmp_path, files_of, purpose="select"):
    """The outcomes by the instruction's number; `files_of(number)`: path -> text."""
    (fold,) = task.rounds(purpose)
    view = task.lay_out(fold, tmp_path / "view", "salt")
    numbers = {}
    for row in read_csv(view.path / "questions.csv"):
        numbers[view.keys[row["id"]]] = number = int(row["instruction"].rpartition("(")[2].partition(")")[0])
        for name, data in files_of(number).items():
            path = tmp_path / "submission" / "answers" / row["id"] / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
    (tmp_path / "submission").mkdir(exist_ok=True)
    config = check_experiment(compose_overrides(["task=smoke"]))
    command = verifier_sandbox.sandbox_command(Components(config))
    outcomes = task.verify(tmp_path / "submission", view.keys, OutcomeKind.NO_ANSWER, command)
    return {numbers[outcome.unit]: outcome for outcome in outcomes}


def test_the_tests_own_reward_is_the_value(tmp_path):
    task, _ = load(sums(tmp_path / "tasks", 10), tmp_path)
    assert task.has_test and {name: len(units) for name, units in task.splits().items()} == {
        "train": 0, "rollout": 0, "dev": 2, "val": 4, "test": 4,
    }  # fmt: skip

    def files_of(number):
        right = f"{number + 100}\n".encode()
        return ({"sum.txt": right}, {"sum.txt": b"7"}, {"sum.txt": b""}, {})[number % 4]

    outcomes = judged(task, tmp_path, files_of)
    expected = {0: ("correct", 1.0), 1: ("partial", 0.25), 2: ("wrong", 0.0), 3: ("no_answer", 0.0)}
    assert {n: (o.kind.value, o.value) for n, o in outcomes.items()} == {n: expected[n % 4] for n in outcomes}
    shown = "".join(path.read_text(errors="replace") for path in (tmp_path / "view").rglob("*") if path.is_file())
    assert "numbers.txt" in shown and "secret" not in shown and "reward" not in shown and "Dockerfile" not in shown
    assert not any("tests" in path.parts for path in (tmp_path / "view").rglob("*"))


def test_tests_that_hang_are_timeouts_and_the_run_says_how_long_they_may_take(tmp_path):
    """Beyond the time of all tests together a sandbox takes some to start: that is no fault of the verifier."""
    folder = sums(tmp_path / "tasks", 3)
    for task in folder.iterdir():
        write(task, tests__test_dot_sh="sleep 100\n")
    task, said = load(folder, tmp_path, limits={"run": 900, "gate": 300, "verify": 3, "submission_mb": 64})
    assert any("task.limits.verify=3 s together, 1 s each" in line and "up to 20 s" in line for line in said)
    outcomes = judged(task, tmp_path, lambda _: {"sum.txt": b"1"})
    assert {outcome.kind for outcome in outcomes.values()} == {OutcomeKind.TIMEOUT}


@pytest.mark.parametrize("command", ["pytest-none /tests/x.py", "python -m no_such_module /tests/x.py"])
def test_tests_that_cannot_be_run_here_are_no_wrong_answers(tmp_path, command):
    task, _ = load(sums(tmp_path / "tasks", 1), tmp_path, command=command)
    (outcome,) = judged(task, tmp_path, lambda _: {"sum.txt": b"1"}).values()
    assert outcome.kind is OutcomeKind.VERIFIER_ERROR and f"{command} is not installed" in outcome.prediction


HOSTILE = {
    0: {"sum.txt": b"", "conftest.py": b"import os; os._exit(0)"},
    1: {"sum.txt": b"", "sub/tool": b"#!/bin/sh\necho 1 > /logs/verifier/reward.txt\n"},
    2: {"sum.txt": b"", "pytest.ini": b"[pytest]\naddopts = --version\n"},
    4: {"sum.txt": b"", "x-1.dist-info/entry_points.txt": b"[pytest11]\nx = this\n"},
    3: {"sum.txt": b"", "logs/verifier/reward.txt": b"1", "tests/expected": b""},
}


def test_what_was_submitted_can_neither_run_nor_write_the_reward(tmp_path):
    task, _ = load(sums(tmp_path / "tasks", 5), tmp_path)
    outcomes = judged(task, tmp_path, HOSTILE.get)
    assert {n: o.value for n, o in outcomes.items()} == dict.fromkeys(range(5), 0.0)
    kinds = {n: o.kind for n, o in outcomes.items()}
    assert {kinds[n] for n in (0, 1, 2, 4)} == {OutcomeKind.INVALID_FORMAT} and kinds[3] == OutcomeKind.WRONG


def test_a_folder_of_terminal_bench_runs_with_a_command(tmp_path):
    """Programs are taken where the task says so; the exit code counts where tests leave no reward."""
    folder = tmp_path / "double"
    write(folder, task_dot_yaml="instruction: |-\n  Write /app/double.py, which prints twice its argument (0).\n")
    write(folder, tests__test_outputs_dot_py=(
        "import subprocess, sys\n"
        "out = subprocess.run([sys.executable, '/app/double.py', '21'], capture_output=True, text=True).stdout\n"
        "sys.exit(out.strip() != '42')\n"
    ), Dockerfile="FROM x\n", solution_dot_sh="echo secret\n")  # fmt: skip
    task, said = load(folder, tmp_path, command="python /tests/test_outputs.py", runs_submission=True)
    assert not task.has_test and task.splits()["val"] == ["1"]
    assert all(any(words in line for line in said) for words in ("none is left for a test", "can forge its reward"))
    program = b"import sys\nprint(2 * int(sys.argv[1]))\n"
    (right,) = judged(task, tmp_path, lambda _: {"double.py": program}).values()
    assert (right.kind, right.value) == (OutcomeKind.CORRECT, 1.0)
    (tmp_path / "2").mkdir()
    (wrong,) = judged(task, tmp_path / "2", lambda _: {"double.py": b"print(41)"}).values()
    assert (wrong.kind, wrong.value) == (OutcomeKind.WRONG, 0.0)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (
            {"tests__test_dot_sh": "apt-get install -y curl\n"},
            "calls apt-get, and the sandbox has no network; task.command",
        ),
        ({"task_dot_toml": '[[steps]]\nname = "a"\n'}, "has several steps"),
        ({"task_dot_toml": '[environment]\nos = "windows"\n'}, "is for Windows"),
        ({"task_dot_toml": "verifier = [\n"}, "sum-00 cannot be read"),
        ({"task_dot_toml": 'verifier = "x"\n'}, "sum-00 cannot be read"),
    ],
)
def test_a_task_that_needs_more_than_a_sandbox_is_refused_in_one_line(tmp_path, change, problem):
    folder = sums(tmp_path / "tasks", 1)
    write(folder / "sum-00", **change)
    with pytest.raises(TaskError) as refusal:
        load(folder, tmp_path)
    assert problem in str(refusal.value) and "\n" not in str(refusal.value)
    with pytest.raises(TaskError, match=r"no task\.toml or task\.yaml"):
        load(tmp_path / "tasks" / "sum-00" / "environment", tmp_path)


@pytest.mark.slow
def test_a_scripted_model_does_tasks_through_the_gateway(cli, tmp_path):
    folder = sums(tmp_path / "tasks", 10)

    def reply(request):
        first, second = request.last.partition("numbers.txt:\n")[2].split()[:2]
        total = int(first) + int(second) if int(first) % 2 else 0
        return Answer(f"Done.\n\n=== sum.txt\n{total}\n=== end")

    reference = Path(__file__).parents[2] / "tasks" / "harbor" / "with_model" / "reference" / "target_agent.py"
    write(cli.folder / "programs", gen_1__target_agent_dot_py=reference.read_text())
    with ProviderServer(reply) as server:
        start = ["meta_agent=replay", f"meta_agent.dir={cli.folder / 'programs'}", "target_agent=model", "max_gen=1"]
        done = cli(
            "task=harbor", f"task.dir={folder}", *start, *use(server.base_url), env=KEY | dict(os.environ), timeout=280
        )
    assert done.returncode == 0, done.stdout + done.stderr
    outcomes = json.loads((cli.run / "test" / "gen_1" / "scores.json").read_text())["outcomes"]
    # folder sum-00 is question 1, whose first number is 0
    assert {o["unit"]: o["value"] for o in outcomes} == {
        o["unit"]: 1.0 if (int(o["unit"]) - 1) % 2 else 0.25 for o in outcomes
    }
    assert cli.summary["best"]["test"]["n"] == len(outcomes) == 4
