"""Whole runs of the kernel task without a GPU: recipes improve, and a model writes a kernel through the gateway."""

import os
import subprocess
import sys

import pytest

from tests.scripts.serving import KEY, Served

pytest.importorskip("torch", reason="NOT CHECKED: torch is not installed (pip install 'sia-runner[trimul]')")
pytest.importorskip("triton", reason="NOT CHECKED: triton is not installed (pip install 'sia-runner[trimul]')")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]  # a minute each on an idle machine


def test_recipes_improve_on_the_naive_start(cli):
    quick = ["meta_agent.trials=2", "meta_agent.rungs=[1.0]", "meta_agent.trial_questions=3"]
    done = cli("task=trimul", "max_gen=2", *quick, timeout=850)
    assert done.returncode == 0, done.stdout + done.stderr
    first, *later = cli.summary["generations"]
    assert any(g["status"] == "accepted" for g in later)
    assert cli.summary["best"]["val"]["value"] > 3 * first["val"]["value"]
    assert cli.summary["best"]["test"]["value"] > 3 * cli.summary["best"]["baseline_test"]["value"]


def test_a_model_writes_the_kernel_through_the_gateway_and_its_scores_can_be_computed_again(cli):
    pytest.importorskip("litellm", reason="NOT CHECKED: litellm is not installed (pip install 'sia-runner[models]')")
    server = Served("kernels:reply", {**os.environ})
    try:
        done = cli("task=trimul", "max_gen=1", *server.overrides, timeout=850, env=KEY)
        assert done.returncode == 0, done.stdout + done.stderr
        assert cli.summary["usage"]["calls"] == server.tally.calls == 6  # gate, select and test, twice asked in each
    finally:
        server.end()
    assert cli.summary["best"]["test"]["value"] > 0.2
    command = [sys.executable, "-m", "sia_runner", "verify", str(cli.run)]
    again = subprocess.run(command, capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stdout + again.stderr
