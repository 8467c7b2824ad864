"""Heavy packages are loaded where they are used, never at start-up; a help page loads hardly anything."""

import subprocess
import sys

import pytest

from sia_runner.commands.arguments import COMMANDS
from sia_runner.commands.run import _may_set_mode
from tests.conftest import ROOT

YAMLS = [path for folder in ("conf", "sweeps") for path in (ROOT / folder).rglob("*.yaml")]
HEAVY = ["torch", "trl", "wandb", "litellm", "pandas", "sklearn", "scipy", "numpy", "optuna"]
OURS = {
    "sia_runner",
    "sia_runner.__main__",
    "sia_runner.commands",
    "sia_runner.commands.arguments",
    "sia_runner.errors",
    "sia_runner.text",
}
OF_RUN = {"sia_runner.config", "sia_runner.config.help", "sia_runner.system"}  # its page lists conf/
SLOW = {"asyncio", "concurrent", "dataclasses", "email", "http", "inspect", "json", "logging", "shutil", "subprocess"}


def loaded_after(program):
    show = "import sys; before = set(sys.modules)", "print(*sorted(set(sys.modules) - before))"
    line = [sys.executable, "-c", "\n".join([show[0], program, show[1]])]
    return set(subprocess.run(line, capture_output=True, text=True, check=True).stdout.splitlines()[-1].split())


MODULES = [f"commands.{name}" for name in COMMANDS] + ["proposers.recipes", "tasks.table", "tracking.wandb"]


@pytest.mark.parametrize("module", MODULES)
def test_importing_loads_nothing_heavy(module):
    assert not loaded_after(f"import sia_runner.{module}") & set(HEAVY)


@pytest.mark.parametrize("name", ["", *COMMANDS])
def test_a_help_page_loads_hardly_anything(name):
    loaded = loaded_after(f"from sia_runner.__main__ import main; assert main('{name} --help'.split()) == 0")
    ours = {module for module in loaded if module.startswith("sia_runner")}
    assert ours == OURS | (OF_RUN if name in ("", "run") else set())
    assert {module.partition(".")[0] for module in loaded - ours} <= sys.stdlib_module_names - SLOW


def test_what_may_set_hydras_mode_is_recognised_so_that_all_else_is_composed_once():
    set_by = {path.relative_to(ROOT).parts[0] for path in YAMLS if "mode: MULTIRUN" in path.read_text()}
    assert set_by == {"sweeps"}
    for argument in (
        "+sweeps=first",
        "experiment=mine",
        "+experiment=mine",
        "hydra.mode=MULTIRUN",
        "-m",
        "--config-dir",
    ):
        assert _may_set_mode(["task=smoke", argument])
    assert not _may_set_mode(["task=smoke", "hydra.run.dir=run", "max_gen=1", "trainer.steps=2"])


def test_a_reader_that_has_seen_enough_ends_a_command_quietly(tmp_path):
    """As `tasks list | head -1` does."""
    command = f"{sys.executable} -m sia_runner tasks list | true"
    done = subprocess.run(["sh", "-c", command], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.stderr == ""
