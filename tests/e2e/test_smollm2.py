"""SIA-W+H on a real chat model in this process: base=smollm2 and task=sentences, a few steps.

The same run through a real vLLM and at a real Tinker server: test_weights_vllm.py, test_weights_tinker.py.
"""

import pytest

pytest.importorskip("torch", reason="the weights lever needs the extra `training`")

from tests.policy.test_wheel_base import smollm2
from tests.scripts import sentences


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_harness_and_weights_on_a_real_chat_model(cli, tmp_path):
    folder = smollm2()
    done = cli(*sentences.overrides(tmp_path), "policy=smollm2", f"hydra.run.dir={cli.run}", timeout=850)
    assert done.returncode == 0, done.stdout + done.stderr
    sentences.check_run(cli, "smollm2", folder, max_drift=0.01, max_gap=0.1)  # in bfloat16
