"""A small run of task=sentences with both levers, for each place where a policy's weights may be.

One harness, which shows the model examples, and two GRPO steps. What is recorded has to be the same everywhere.
"""

import json
import math
from pathlib import Path

from sia_runner.system import bundled_folder

STEPS, PROMPTS, SAMPLES = 2, 4, 4


def overrides(folder: Path) -> list[str]:
    """Return the overrides; the harness is copied to `folder`."""
    harness = folder / "few_shot" / "gen_1" / "target_agent.py"
    harness.parent.mkdir(parents=True)
    recipe = bundled_folder("tasks") / "sentences" / "with_model" / "recipes" / "few_shot.py"
    harness.write_text(recipe.read_text())
    return [
        *("task=sentences", "+task.data.arguments={labelled: 80, test: 10}", "task.splits.dev=0.1"),
        *("meta_agent=replay", f"meta_agent.dir={harness.parents[1]}", "max_gen=2", "lever.probe_questions=4"),
        *("trainer=grpo", f"trainer.steps={STEPS}", f"trainer.prompts_per_step={PROMPTS}"),
        *(
            f"trainer.group_size={SAMPLES}",
            "trainer.learning_rate=5e-4",
            "trainer.lora.rank=8",
            "trainer.lora.alpha=32",
        ),
    ]


def check_run(cli, base: str, max_drift: float) -> None:
    """Check what every policy has to have recorded of such a run; `max_drift`: nats per token, sampler to learner."""
    first, second = cli.summary["generations"]
    assert cli.summary["mode"] == "SIA-W+H" and first["lever"] == "harness"
    assert (second["lever"], second["algorithm"], second["parent"]) == ("weights", "grpo", 1)
    assert second["val"]["n"] == first["val"]["n"] == 16 and second["status"] in ("accepted", "rejected")
    origin = json.loads((cli.run / "gen_2" / "adapter" / "sia_adapter.json").read_text())
    assert origin["steps"] == STEPS and origin["base_id"] == base and origin["algorithm"] == "grpo"
    curve = [json.loads(line) for line in (cli.run / "gen_2" / "curve.jsonl").read_text().splitlines()]
    assert [line["step"] for line in curve] == [1, 2]
    assert all(0 <= line["reward"] <= 1 and line["drift_kl"] <= max_drift for line in curve)


def check_call(record: dict) -> None:
    """Check a recorded call: the chat as the harness sent it, and tokens with their logprobs."""
    tokens, request = record["tokens"], record["request"]
    assert [message["role"] for message in request["messages"]] == ["system", *["user", "assistant"] * 3, "user"]
    assert 0 < len(tokens["completion_ids"]) == len(tokens["logprobs"]) <= 40
    assert all(value <= 0 and math.isfinite(value) for value in tokens["logprobs"])
