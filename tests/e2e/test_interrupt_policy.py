"""Ctrl-C and SIGTERM end a run whose real chat model is in the middle of long answers, between two tokens."""

import os
import signal
import time

import pytest

pytest.importorskip("torch", reason="a policy needs the extra `training`")

from tests.scripts import parity

BASE = os.environ.get("SIA_SMOLLM2", "")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(400),
    pytest.mark.skipif(not BASE, reason="no SmolLM2: tests/engines/smollm2.py FOLDER, and SIA_SMOLLM2=FOLDER"),
]
LONG = " Write a long story about it, of at least two thousand words."
SECONDS = 15  # a token of a whole batch takes a second or more on a busy machine; the answers would take many minutes


@pytest.mark.parametrize(
    ("number", "moment"),
    [(signal.SIGINT, "gen_1/gate/work"), (signal.SIGTERM, "gen_2/rollouts/0.0/work")],
    ids=["ctrl-c-in-a-batch", "sigterm-in-rollouts"],
)
def test_a_run_ends_between_tokens_and_can_be_resumed(number, moment, cli, tmp_path):
    rollouts = "rollouts" in moment
    settings = {"max_tokens": 4 if rollouts else 3000, "copies": 1 if rollouts else 32, "more": LONG}
    options = parity.overrides(tmp_path, **settings)
    at = [f"target_agent.policy.base={BASE}", f"hydra.run.dir={cli.run}"]
    runner = cli.start(*options, *at)
    wait_for(runner, cli.run / moment)
    time.sleep(10 if not rollouts else 1)  # the prompts are read by then
    assert runner.poll() is None
    began = time.monotonic()
    runner.send_signal(number)
    output = runner.communicate(timeout=300)[0]
    assert time.monotonic() - began < SECONDS, output
    assert runner.returncode == 130 and f"resume={cli.run}" in output and "Traceback" not in output
    assert cli.journal[-1]["event"] == "interrupted"


def wait_for(runner, path) -> None:
    deadline = time.monotonic() + 300
    while not path.exists():
        assert runner.poll() is None and time.monotonic() < deadline, runner.communicate()[0]
        time.sleep(0.05)
