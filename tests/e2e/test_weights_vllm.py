"""The weights lever in the loop where a server with vLLM's endpoints answers; our own engine stands behind it."""

import json
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="the weights lever needs the extra `training`")

from sia_runner.config.experiment import check_experiment
from sia_runner.config.training import PolicyConfig
from sia_runner.experiment.context import Components
from sia_runner.policy.engine import PolicyEngine
from sia_runner.system import cache_dir
from sia_runner.wire.policy import WarmupDialogue
from tests.config.test_experiment import composed
from tests.policy.vllm_server import VllmServer

LITTLE = [
    "trainer.steps=2",
    "trainer.prompts_per_step=16",
    "trainer.group_size=4",
    "trainer.learning_rate=2e-3",
    "max_gen=2",
]


def tiny() -> Path:
    """Return base=tiny of the task as a folder that a server can serve."""
    config = check_experiment(composed("task=arithmetic", "target_agent=policy"))
    task = Components(config).task
    task.prepare(lambda line: None)
    texts = [WarmupDialogue([{"role": "user", "content": asked}], answer) for asked, answer in task.dialogues()]
    return PolicyEngine(config.target_agent.policy, cache_dir(), lambda: texts).folder


@pytest.mark.slow
def test_a_generation_is_trained_gated_scored_and_tested_through_the_server(cli, tmp_path):
    base = tiny()
    (tmp_path / "server").mkdir()
    server = VllmServer(PolicyEngine(PolicyConfig(base=str(base), device="cpu"), tmp_path, list), tmp_path / "server")
    at = [f"target_agent.policy.{key}" for key in (f"base={base}", "backend=vllm", f"base_url={server.url}")]
    done = cli("task=arithmetic", "trainer=grpo", *at, *LITTLE, timeout=280)
    server.close()
    assert done.returncode == 0, done.stdout + done.stderr
    second = cli.summary["generations"][1]
    assert (second["lever"], second["algorithm"]) == ("weights", "grpo") and second["val"]["n"] == 301
    origin = json.loads((cli.run / "gen_2" / "adapter" / "sia_adapter.json").read_text())
    assert origin["steps"] == 2 and origin["base_id"] == str(base)
    trained = [name for name, _ in server.loads if name.startswith("sia-live-")]
    assert len(trained) == 2 and len(set(trained)) == 1, "one version for each step's rollouts"
    (finished,) = {name for name, _ in server.loads if name not in trained}
    asked = [body["model"] for body in server.asked]
    assert asked.count(trained[0]) == 2 * 16 * 4 and asked.count(finished) >= 301
    assert server.adapters == {} and not list((cli.run / "served").iterdir())
