"""Heavy packages are loaded where they are used, never at start-up."""

import subprocess
import sys

import pytest

from sia_runner.commands.run import _may_set_mode
from tests.conftest import ROOT

YAMLS = [path for folder in ("conf", "sweeps") for path in (ROOT / folder).rglob("*.yaml")]
HEAVY = ["torch", "trl", "wandb", "litellm", "pandas", "sklearn", "scipy", "numpy", "optuna"]


def loaded_after(program):
    show = f"import sys; print([m for m in {HEAVY} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", f"{program}\n{show}"], capture_output=True, text=True, check=True)
    return done.stdout.strip().splitlines()[-1]


@pytest.mark.parametrize(
    "module",
    ["experiment.runner", "commands.run", "commands.verify", "commands.export", "commands.compare", "proposers.recipes",
     "tasks.table",
     "tracking.wandb", "commands.sync"],
)  # fmt: skip
def test_importing_loads_nothing_heavy(module):
    assert loaded_after(f"import sia_runner.{module}") == "[]"


def test_help_loads_not_even_hydra():
    program = "import sys; sys.argv=['x','--help']; import sia_runner.__main__ as m; m.main()"
    program += "; assert not {'hydra', 'pydantic', 'rich'} & set(sys.modules)"
    assert loaded_after(program) == "[]"


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
