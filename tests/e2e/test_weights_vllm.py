"""The weights lever with a real vLLM server and a real chat model (tests/engines/vllm.sh), started as documented."""

import json
import os
import urllib.request

import pytest

pytest.importorskip("torch", reason="the weights lever needs the extra `training`")

from tests.scripts import parity

URL, BASE = os.environ.get("SIA_VLLM_URL", ""), os.environ.get("SIA_SMOLLM2", "")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(not URL, reason="no vLLM server: tests/engines/vllm.sh up"),
]


def served() -> list[str]:
    with urllib.request.urlopen(f"{URL}/models") as answer:
        return [model["id"] for model in json.load(answer)["data"]]


def test_a_generation_is_trained_gated_scored_and_tested_through_a_real_server(cli, tmp_path):
    at = [f"target_agent.policy.{key}" for key in (f"base={BASE}", "backend=vllm", f"base_url={URL}")]
    done = cli(*parity.overrides(tmp_path, max_tokens=8), *at, f"hydra.run.dir={cli.run}", timeout=850)
    assert done.returncode == 0, done.stdout + done.stderr
    second = cli.summary["generations"][1]
    assert (second["lever"], second["algorithm"]) == ("weights", "grpo") and second["val"]["n"] == 8
    origin = json.loads((cli.run / "gen_2" / "adapter" / "sia_adapter.json").read_text())
    assert origin["steps"] == 3 and origin["base_id"] == BASE
    assert served() == [BASE], "no adapter of ours is left at the server"
    assert not list((cli.run / "served").iterdir())
    assert_applied(cli.run / "gen_2")


def assert_applied(generation) -> None:
    """The logprobs that the server recorded are those of the adapter, not the base's."""
    import torch

    from sia_runner.config.training import PolicyConfig
    from sia_runner.policy.engine import PolicyEngine

    lines = (generation / "trajectories.jsonl").read_text().splitlines()
    calls = [json.loads(line)["tokens"] for line in lines[:4]]
    engine = PolicyEngine(PolicyConfig(base=BASE, device="cpu"), generation, list)
    distance = {}
    for adapter in (None, generation / "adapter"):
        version = engine.use(adapter)
        gaps = []
        for call in calls:
            with torch.no_grad():
                logits = engine.model(torch.tensor([call["prompt_ids"] + call["completion_ids"]])).logits[0]
            logprob_tv = logits[len(call["prompt_ids"]) - 1 : -1].log_softmax(-1)
            own = logprob_tv.gather(1, torch.tensor(call["completion_ids"])[:, None])[:, 0]
            gaps.append((own - torch.tensor(call["logprobs"])).abs().mean())
        distance[version] = float(torch.stack(gaps).mean())
    assert {call["adapter"] for call in calls} == {version}
    assert distance[version] < 0.2 and 2 * distance[version] < distance["base"], distance
