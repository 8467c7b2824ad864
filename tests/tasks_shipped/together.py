"""Several harnesses in one process: to import scikit-learn takes longer than any of them."""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

DRIVER = """
import runpy, sys
_, view, *homes = sys.argv
for home in homes:
    program = f"{home}/target_agent.py"
    sys.argv = [program, "--dataset_dir", view, "--working_dir", home]
    runpy.run_path(program, run_name="__main__")
"""


def run_together(programs: Sequence[str], view: Path, folder: Path) -> list[Path]:
    """The working folder of each, below `folder`."""
    homes = [folder / str(number) for number in range(len(programs))]
    for home, program in zip(homes, programs, strict=True):
        home.mkdir()
        (home / "target_agent.py").write_text(program, encoding="utf-8")
    command = [sys.executable, "-I", "-c", DRIVER, str(view), *map(str, homes)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, ""), "a warning is a fault too: nobody reads those of 40 trials"
    return homes
