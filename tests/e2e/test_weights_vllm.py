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


def test_a_published_version_is_scored_with_its_own_weights_and_unloaded(tmp_path):
    import numpy as np

    from sia_runner.config.training import LoraSettings, PolicyConfig
    from sia_runner.policy.engine import PolicyEngine
    from sia_runner.policy.vllm import VllmPolicy
    from sia_runner.wire.learning import StepSettings, TokenWeights, TrainingRow
    from sia_runner.wire.policy import LIVE_WEIGHTS, PolicyRequest

    spec = PolicyConfig(base=BASE, backend="vllm", base_url=URL, device="cpu")
    policy = VllmPolicy(spec, tmp_path / "served", lambda: PolicyEngine(spec, tmp_path, list))
    asked = policy.answer(PolicyRequest(({"role": "user", "content": "What is 19 + 7?"},), 8, temperature=1.0, seed=1))
    rows = [TrainingRow(asked.prompt_ids, asked.completion_ids)]

    def distance(scores, expected) -> float:
        return float(np.abs(np.concatenate(scores) - np.concatenate(expected.logprobs)).mean())

    with policy.learner(LoraSettings(rank=8, alpha=16), None, 0, critic=False, work=tmp_path / "work") as learner:
        for _ in range(2):
            for _ in range(3):
                learner.backward(rows, lambda part: TokenWeights([np.ones(len(own)) for own in part.logprobs]))
                learner.step(StepSettings(1e-3))
            learner.publish()
        live, base = policy.sampler.score(rows, LIVE_WEIGHTS), policy.sampler.score(rows, None)
        now, before = learner.forward(rows), learner.forward(rows, base=True)
        figures = distance(live, now), distance(base, before), distance(live, before)
        print("to the learner, base to base, to the base", figures)
        assert max(figures[:2]) < 0.2 and figures[2] > 2 * max(figures[:2]), figures
        assert len(served()) == 2, "the base and one version"
    policy.use(None)
    policy.close()
    assert served() == [BASE]
