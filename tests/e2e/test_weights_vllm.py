"""The weights lever with a real vLLM server and a real chat model (tests/engines/vllm.sh), started as documented."""

import contextlib
import json
import os
import shlex
import threading
import time
import urllib.request

import psutil
import pytest

pytest.importorskip("torch", reason="the weights lever needs the extra `training`")

from tests.scripts import parity, sentences

URL, BASE = os.environ.get("SIA_VLLM_URL", ""), os.environ.get("SIA_SMOLLM2", "")
PYTHON = os.environ.get("SIA_VLLM_PYTHON", "")
# of a server on a CPU that shares it with another one, see docs/training.md
ON_CPU = "--max-model-len 1024 --enforce-eager --no-enable-chunked-prefill --max-num-batched-tokens 16384"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(not URL, reason="no vLLM server: tests/engines/vllm.sh up"),
]


def served() -> list[str]:
    with urllib.request.urlopen(f"{URL}/models") as answer:
        return [model["id"] for model in json.load(answer)["data"]]


def test_harness_and_weights_on_a_chat_model_are_recorded_as_in_process(cli, tmp_path):
    at = ["policy=vllm", f"target_agent.policy.base={BASE}", f"target_agent.policy.base_url={URL}"]
    done = cli(*sentences.overrides(tmp_path), *at, f"hydra.run.dir={cli.run}", timeout=850)
    assert done.returncode == 0, done.stdout + done.stderr
    sentences.check_run(cli, BASE, BASE, max_drift=0.05, max_gap=0.2)  # the server computes in bfloat16
    assert served() == [BASE], "no adapter of ours is left at the server"
    assert not list((cli.run / "served").iterdir())


@pytest.mark.skipif(not PYTHON, reason="no interpreter with vLLM: tests/engines/vllm.sh env")
def test_a_server_that_the_run_starts_is_killed_started_again_and_ended(cli, tmp_path):
    """The same generation; a server killed after the first step gets the adapter again, and none is left."""
    command = json.dumps([PYTHON, "-m", "vllm.entrypoints.openai.api_server", "--model"])
    at = ["policy=vllm", f"target_agent.policy.base={BASE}", f"target_agent.policy.vllm.command={command}"]
    at += [f"target_agent.policy.vllm.args={json.dumps(shlex.split(ON_CPU))}", "target_agent.policy.vllm.owner=stage"]
    environment = os.environ | {"VLLM_CPU_KVCACHE_SPACE": "1", "HF_HUB_OFFLINE": "1"}
    seen: set[int] = set()
    killed: list[int] = []

    def kill_once() -> None:
        """Kill the server's process when the first step is done; note all processes of servers that were seen."""
        curve = cli.run / "gen_2" / "training.log"
        while not over.wait(0.5):
            servers = servers_of(cli.run)
            seen.update(one.pid for one in servers)
            if servers and not killed and curve.is_file() and curve.read_text():
                servers[0].kill()
                killed.append(servers[0].pid)

    over = threading.Event()
    watcher = threading.Thread(target=kill_once)
    watcher.start()
    environment |= {"SIA_TEST_RUN": str(cli.run)}
    began = time.monotonic()
    done = cli(*parity.overrides(tmp_path, max_tokens=8), *at, f"hydra.run.dir={cli.run}", timeout=850, env=environment)
    print("seconds", time.monotonic() - began)
    over.set()
    watcher.join()
    assert done.returncode == 0, done.stdout + done.stderr
    second = cli.summary["generations"][1]
    assert (second["lever"], second["algorithm"]) == ("weights", "grpo") and second["val"]["n"] == 8
    assert_applied(cli.run / "gen_2")
    assert killed and len(seen) == 2 and not any(map(psutil.pid_exists, seen))
    lines = [entry["line"] for entry in cli.journal if entry["event"] == "server"]
    assert "ended" in lines[0] and "answers again" in lines[1] and len(lines) == 2


def servers_of(run) -> list[psutil.Process]:
    """Return the servers of a run, without their guards."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            words = process.cmdline()
            if BASE in words and "--port" in words and "-I" not in words:
                found += [process] if process.environ().get("SIA_TEST_RUN") == str(run) else []
    return found


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
