"""The weights lever in the loop: rollouts of the harness itself, training, the same gate as any candidate."""

import json
import subprocess
import sys

import pytest

pytest.importorskip("torch", reason="the weights lever needs the extra `training`")

LITTLE = ["trainer.steps=2", "trainer.prompts_per_step=16", "trainer.group_size=4", "max_gen=2"]


def test_a_generation_trains_an_adapter_that_is_gated_scored_and_kept_with_its_origin(cli):
    done = cli("task=arithmetic", "trainer=grpo", "trainer.learning_rate=1e-3", *LITTLE, timeout=280)
    assert done.returncode == 0, done.stdout + done.stderr
    first, second = cli.summary["generations"]
    assert cli.summary["mode"] == "SIA-W+H" and first["lever"] == "harness"
    assert (second["lever"], second["algorithm"], second["parent"]) == ("weights", "grpo", 1)
    assert second["val"]["n"] == first["val"]["n"] and second["status"] in ("accepted", "rejected")
    origin = json.loads((cli.run / "gen_2" / "adapter" / "sia_adapter.json").read_text())
    assert origin["steps"] == 2 and origin["algorithm"] == "grpo" and origin["base_id"] == "tiny"
    (built,) = [e["result"] for e in cli.journal if e["event"] == "done" and e["step"] == "gen_2/build"]
    assert len(built["reward"]) == 2 and built["fault"] == ""
    checked = subprocess.run(
        [sys.executable, "-m", "sia_runner", "verify", str(cli.run)], capture_output=True, text=True, check=False
    )
    assert checked.returncode == 0, checked.stdout


@pytest.mark.slow
def test_weights_and_harness_beat_the_harness_alone_on_held_out_questions(cli):
    sweep = f"hydra.sweep.dir={cli.folder / 'levers'}"
    done = cli("-m", "+experiment=sia_h,sia_wh", "task=arithmetic", "max_gen=3", sweep, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr
    command = [sys.executable, "-m", "sia_runner", "compare", str(cli.folder / "levers"), "--json"]
    comparison = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    harness_only, both = comparison["runs"]
    assert (harness_only["mode"], both["mode"]) == ("SIA-H", "SIA-W+H")
    assert both["algorithms"] == ["grpo"]  # what trainer=auto chose, and what was accepted
    assert harness_only["test"]["n"] == both["test"]["n"] == 400
    (pair,) = comparison["pairs"]
    assert pair["won"] > pair["lost"] and pair["p_value"] < 1e-6
    assert comparison["notes"] == []  # same policy, same first harness, same everything but the trainer
