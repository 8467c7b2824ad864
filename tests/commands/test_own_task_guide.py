"""docs/own_task.md, followed to the letter: each block of commands as it stands there, and ten minutes in all."""

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sia_runner.system import bundled_folder

GUIDE = bundled_folder("conf").parent / "docs" / "own_task.md"


@pytest.mark.slow
def test_the_guide_leads_from_a_csv_file_to_a_better_harness_in_under_ten_minutes(tmp_path):
    if not GUIDE.is_file():
        pytest.skip("the documentation is not part of an installed package")
    blocks = re.findall(r"```sh\n(.*?)```", GUIDE.read_text(encoding="utf-8"), re.S)
    assert len(blocks) >= 5
    programs = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    env = os.environ | {"PATH": programs, "PYTHONPATH": str(GUIDE.parent.parent)}
    began = time.monotonic()
    for block in blocks:
        done = subprocess.run(
            ["sh", "-e", "-c", block], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=600
        )
        assert done.returncode == 0, f"{block}\n{done.stdout}\n{done.stderr}"
    assert time.monotonic() - began < 600
    summary = json.loads((tmp_path / "runs" / "desk" / "summary.json").read_text())
    assert [g["status"] for g in summary["generations"]][:2] == ["accepted", "accepted"]
    assert summary["best"]["test"]["value"] > summary["best"]["baseline_test"]["value"] + 0.2
    assert Path(tmp_path / "desk_best").is_dir()
