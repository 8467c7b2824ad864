"""A whole run whose update divides the base over two processes, while a server with vLLM's endpoints answers."""

import json

import pytest

from tests.arithmetic import BARE, SMALL
from tests.config.test_experiment import composed

pytest.importorskip("torch", reason="the weights lever needs the extra `training`")
pytest.importorskip("trl", reason="the weights lever needs the extra `training`")
pytest.importorskip("aiohttp", reason="the models extra is not installed")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

STEPS = 4
EXPERIMENT = ["task=arithmetic", "trainer=grpo", "trainer.learning_rate=2e-3", "max_gen=2", "seed=4", *SMALL]
EXPERIMENT += [f"trainer.steps={STEPS}", "trainer.prompts_per_step=6", "trainer.group_size=4"]
EXPERIMENT += ["trainer.checkpoint_every=2", "trainer.lora.save=[]"]


@pytest.fixture
def server(tmp_path):
    """A server of the tiny policy that runs train, as a base of its own."""
    from sia_runner.config.experiment import check_experiment
    from sia_runner.experiment.context import Components, warm_up_dialogues
    from sia_runner.policy.engine import PolicyEngine
    from sia_runner.policy.tiny import tiny_base_folder
    from sia_runner.system import cache_dir
    from tests.policy.checkpoints import no_texts, spec
    from tests.policy.vllm_server import VllmServer

    components = Components(check_experiment(composed("task=arithmetic", "trainer=grpo", *SMALL)))
    tiny = components.config.target_agent.policy.tiny
    folder = tiny_base_folder(tiny, cache_dir(), warm_up_dialogues(components.task), print)
    served = VllmServer(PolicyEngine(spec(folder), tmp_path / "engine", no_texts), tmp_path / "at_server")
    yield served
    served.close()


def test_two_processes_train_what_a_server_answers_with(cli, server):
    at = {"base": server.name, "backend": "vllm", "base_url": server.url, "device": "cpu"}
    policy = [f"target_agent.policy.{key}={value}" for key, value in at.items()]
    replay = [override for override in cli.replay(BARE) if not override.startswith("max_gen=")]
    done = cli(*EXPERIMENT, *replay, "target_agent=policy", *policy, "trainer.shards=2", timeout=850)
    assert done.returncode == 0, done.stdout + done.stderr
    built = next(e["result"] for e in cli.journal if e["event"] == "done" and e["step"] == "gen_2/build")
    assert not built["fault"] and built["steps"] == STEPS
    log = (cli.run / "gen_2" / "training.log").read_text()
    assert log.count(f"step {STEPS}/{STEPS}") == 1 and "the server applies the adapter" in log
    origin = json.loads((cli.run / "gen_2" / "adapter" / "sia_adapter.json").read_text())
    assert origin["steps"] == STEPS and origin["base_id"] == server.name
    live = [name for name, _ in server.loads if name.startswith("sia-live-") and not name.endswith("-check")]
    assert len({name.rpartition("-")[0] for name in live}) == 1, "only the first process publishes"
    assert len(live) == STEPS + 1 and not server.adapters
