"""Heavy packages are loaded where they are used, never at start-up."""

import subprocess
import sys

import pytest

HEAVY = ["torch", "trl", "wandb", "litellm", "pandas", "sklearn", "scipy", "numpy", "optuna"]


def loaded_after(program):
    show = f"import sys; print([m for m in {HEAVY} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", f"{program}\n{show}"], capture_output=True, text=True, check=True)
    return done.stdout.strip().splitlines()[-1]


@pytest.mark.parametrize(
    "module",
    ["runner", "hydra_app", "verify", "export", "compare", "agents.recipes", "tasks.table", "tracking.wandb", "sync"],
)
def test_importing_loads_nothing_heavy(module):
    assert loaded_after(f"import sia_runner.{module}") == "[]"


def test_help_loads_not_even_hydra():
    program = "import sys; sys.argv=['x','--help']; import sia_runner.__main__ as m; m.main()"
    program += "; assert not {'hydra', 'pydantic', 'rich'} & set(sys.modules)"
    assert loaded_after(program) == "[]"
