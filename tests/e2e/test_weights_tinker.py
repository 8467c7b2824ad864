"""The weights lever with a real Tinker server and chat model (tests/engines/tinker.sh): whole runs, and kills."""

import json
import os
import signal
import subprocess
import time
import urllib.request
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("tinker", reason="policy=tinker needs the extra `tinker`")

from tests.conftest import ROOT
from tests.scripts import parity

URL, BASE, STATE = (os.environ.get(name, "") for name in ("SIA_TINKER_URL", "SIA_SMOLLM2", "SIA_TINKER_STATE"))
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(not URL, reason="no Tinker server: tests/engines/tinker.sh up"),
]
POLICY = ["policy=tinker", f"target_agent.policy.base={BASE}", f"target_agent.policy.base_url={URL}"]
# Lengths of few bins, as the server compiles each; `mean` is what tests/policy/test_tinker_server.py measures.
POLICY += ["trainer.checkpoint_every=1", "target_agent.policy.tinker.reduction=mean"]
PATIENCE = 600.0  # seconds


def steps_of(run: Path) -> list[int]:
    return [json.loads(line)["step"] for line in (run / "gen_2" / "curve.jsonl").read_text().splitlines()]


def ledger_lines(run: Path) -> list[dict]:
    return [json.loads(line) for path in (run / "ledger").glob("*.jsonl") for line in path.read_text().splitlines()]


@pytest.mark.parametrize("trainer", ["grpo", "reinforce", "entropic", "best_of_n", "dpo"])
def test_a_generation_is_trained_by_a_real_server(cli, tmp_path, trainer):
    kind = ["trainer.prompts=4"] if trainer in ("best_of_n", "dpo") else ["trainer.prompts_per_step=2"]
    kind += ["trainer.options.rounds=1"] if trainer in ("best_of_n", "dpo") else []
    chosen = [word for word in parity.overrides(tmp_path, max_tokens=8) if "prompts_per_step" not in word]
    chosen = [f"trainer={trainer}" if word == "trainer=grpo" else word for word in chosen]
    done = cli(*chosen, *kind, *POLICY, f"hydra.run.dir={cli.run}", timeout=850)
    assert done.returncode == 0, done.stdout + done.stderr
    second = cli.summary["generations"][1]
    assert (second["lever"], second["algorithm"]) == ("weights", trainer) and second["val"]["n"] == 8
    origin = json.loads((cli.run / "gen_2" / "adapter" / "sia_adapter.json").read_text())
    assert origin["steps"] == 3 and origin["base_id"] == BASE and origin["service"]["address"] == URL
    trained = [line for line in ledger_lines(cli.run) if line.get("role") == "learner"]
    assert trained and {line["purpose"] for line in trained} == {"train"}
    assert sum(line["output"] for line in trained) > 0, "tokens that were trained are counted"
    assert_applied(cli.run / "gen_2")


def assert_applied(generation: Path) -> None:
    """The logprobs that the server recorded on dev and val are those of the exported adapter by PEFT, to 1e-3."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    lines = (generation / "trajectories.jsonl").read_text().splitlines()
    calls = [json.loads(line)["tokens"] for line in lines[:4]]
    base = AutoModelForCausalLM.from_pretrained(BASE, dtype=torch.float32)
    model = PeftModel.from_pretrained(base, str(generation / "adapter"))
    for call in calls:
        ids = torch.tensor([[*call["prompt_ids"], *call["completion_ids"]]])
        with torch.no_grad():
            logprob_tv = model(ids).logits[0, len(call["prompt_ids"]) - 1 : -1].double().log_softmax(-1)
        own = logprob_tv.gather(1, torch.tensor(call["completion_ids"])[:, None])[:, 0]
        np.testing.assert_allclose(own.numpy(), call["logprobs"], atol=1e-3)


class KilledRun:
    """A run that is killed when its update has taken a step."""

    def __init__(self, cli, tmp_path) -> None:
        self.cli = cli
        self.runner = cli.start(
            *parity.overrides(tmp_path, max_tokens=8), *POLICY, f"hydra.run.dir={cli.run}", process_group=0
        )

    def until_step(self, step: int) -> None:
        curve, deadline = self.cli.run / "gen_2" / "curve.jsonl", time.monotonic() + PATIENCE
        while not curve.is_file() or len(curve.read_text().splitlines()) < step:
            assert self.runner.poll() is None and time.monotonic() < deadline, self.runner.communicate()[0]
            time.sleep(0.05)


def assert_whole(cli) -> None:
    """The update has all its steps, each once in the adapter, and nothing that was sent is missing in the ledger."""
    assert cli.summary["generations"][1]["lever"] == "weights"
    origin = json.loads((cli.run / "gen_2" / "adapter" / "sia_adapter.json").read_text())
    assert origin["steps"] == 3
    kept = [entry for entry in cli.journal if entry["event"] == "checkpoint"]
    assert kept and all(entry["path"].startswith("tinker://") for entry in kept)
    counts = Counter(steps_of(cli.run))
    assert sorted(counts) == [1, 2, 3]


def test_kill_of_the_runner_in_an_update(cli, tmp_path):
    run = KilledRun(cli, tmp_path)
    run.until_step(1)
    os.killpg(run.runner.pid, signal.SIGKILL)
    run.runner.wait()
    done = cli(f"resume={cli.run}", timeout=850)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "resumed after step" in (cli.run / "gen_2" / "training.log").read_text()
    assert_whole(cli)


@pytest.mark.skipif(not STATE, reason="SIA_TINKER_STATE: the server is not ours")
def test_kill_of_the_server_in_an_update(cli, tmp_path):
    run = KilledRun(cli, tmp_path)
    run.until_step(1)
    os.killpg(int((Path(STATE).parent / "pid").read_text()), signal.SIGKILL)
    output = run.runner.communicate(timeout=PATIENCE)[0]
    assert run.runner.returncode != 0 and f"resume={cli.run}" in output and "Traceback" not in output, output
    refused = cli(f"resume={cli.run}", timeout=60)
    assert refused.returncode != 0 and "cannot be reached" in refused.stdout + refused.stderr
    environment = {**os.environ, "SIA_ENGINES": str(Path(STATE).parents[1])}
    subprocess.run([ROOT / "tests" / "engines" / "tinker.sh", "up"], env=environment, check=True, timeout=300)
    with urllib.request.urlopen(f"{URL}/api/v1/healthz", timeout=5):
        pass
    done = cli(f"resume={cli.run}", timeout=850)
    assert done.returncode == 0, done.stdout + done.stderr
    assert_whole(cli)
