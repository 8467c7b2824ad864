"""The task's own modules, and submissions judged in the real sandbox."""

from importlib.util import find_spec
from pathlib import Path

import pytest

from sia_runner.config.composition import compose_overrides
from sia_runner.config.experiment import check_experiment
from sia_runner.experiment import verifier_sandbox
from sia_runner.experiment.context import Components
from sia_runner.records import OutcomeKind
from sia_runner.system import bundled_folder, cache_dir
from sia_runner.tasks.submission_sandbox import SubmissionSandbox
from sia_runner.tasks.table import TableTask
from sia_runner.tasks.worker import load_module

FOLDER = bundled_folder("tasks") / "trimul"
VERIFIER = load_module(FOLDER / "verifier.py")  # now `judge`, `dialect`, ... can be imported


def pytest_collection_modifyitems(items):
    """All of it runs kernels, or holds them to what does."""
    missing = [module for module in ("torch", "triton") if find_spec(module) is None]
    why = f"NOT CHECKED: no {', '.join(missing)} (pip install 'sia-runner[trimul]')"
    for item in items:
        if missing and Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.skip(reason=why))


@pytest.fixture(scope="session")
def config():
    return check_experiment(compose_overrides(["task=trimul"]))


@pytest.fixture(scope="session")
def inside(config):
    """The way into the sandbox that runs have on this machine."""
    return SubmissionSandbox(verifier_sandbox.sandbox_command(Components(config)))


@pytest.fixture(scope="session")
def task(config):
    task = TableTask(config.task, 0, cache_dir())
    task.prepare(print)
    return task


@pytest.fixture
def judged(task, config, tmp_path):
    """``judged(source, most=3)``: the outcomes of a submission on the smallest dev questions."""

    def judge(source, most=1):
        (tmp_path / "submission.py").write_text(source)
        smallest = sorted(task.splits()["dev"])[:most]
        keys = {f"q{n}": unit for n, unit in enumerate(smallest)}
        return task.verify(tmp_path, keys, OutcomeKind.NO_ANSWER, verifier_sandbox.sandbox_command(Components(config)))

    return judge


def program(name):
    """The submission that a harness of the task writes."""
    path = FOLDER / (f"recipes/{name}.py" if name != "reference" else "reference/target_agent.py")
    return path.read_text().partition("\n# submission.py\n")[2]
