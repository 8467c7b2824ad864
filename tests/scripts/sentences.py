"""A small run of task=sentences with both levers, for each place where a policy's weights may be.

One harness, which shows the model examples, and two GRPO steps. What is recorded has to be the same everywhere:
the same keys, the same tokens for the same chat, and an adapter that PEFT reads and that gives the recorded logprobs.
"""

import json
import math
from pathlib import Path
from typing import Any

from sia_runner.system import bundled_folder

STEPS, PROMPTS, SAMPLES, MAX_TOKENS = 2, 3, 4, 24
CALL = {
    "call", "at", "candidate", "purpose", "question", "sample", "api", "asked_model", "model", "finish_reason",
    "usage", "usd", "seconds", "attempts", "cached", "tokens", "error", "request", "response",
}  # fmt: skip
TOKENS = {
    "prompt_ids", "completion_ids", "logprobs", "finish_reason", "adapter",
}  # fmt: skip
CURVE = {
    "step", "reward", "kl", "entropy", "zero_groups", "length", "tokens", "drift_kl", "drift_share", "rollouts",
    "seconds",
}  # fmt: skip
ORIGIN = {
    "base_id", "base_sha256", "lora", "data_sha256", "algorithm", "steps", "seed", "kl", "reward", "parent",
}  # fmt: skip
MATRICES, NUMBERS = 2 * 7 * 30, 2_442_240  # of rank 8 for every linear layer of SmolLM2-135M


def overrides(folder: Path) -> list[str]:
    """Return the overrides; the harness is copied to `folder`."""
    harness = folder / "few_shot" / "gen_1" / "target_agent.py"
    harness.parent.mkdir(parents=True)
    recipe = bundled_folder("tasks") / "sentences" / "with_model" / "recipes" / "few_shot.py"
    program = recipe.read_text()
    assert "MAX_TOKENS = 40" in program
    harness.write_text(program.replace("MAX_TOKENS = 40", f"MAX_TOKENS = {MAX_TOKENS}"))
    return [
        *("task=sentences", "+task.data.arguments={labelled: 40, test: 6}", "task.splits.dev=0.1"),
        *("meta_agent=replay", f"meta_agent.dir={harness.parents[1]}", "max_gen=2", "lever.probe_questions=2"),
        *("trainer=grpo", f"trainer.steps={STEPS}", f"trainer.prompts_per_step={PROMPTS}"),
        *(
            f"trainer.group_size={SAMPLES}",
            "trainer.learning_rate=1e-3",
            "trainer.lora.rank=8",
            "trainer.lora.alpha=32",
            "task.limits.gate=600",  # a server that compiles or starts may take minutes for the first answers
        ),
    ]


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def check_run(cli, base: str, folder: Path, max_drift: float, max_gap: float, service: bool = False) -> None:
    """Check what every policy has to have recorded of such a run.

    `base` as the run names it, `folder` of its files; `max_drift`: nats per token, sampler to learner; `max_gap`: nats
    between recorded logprobs and those of the adapter in float32; `service`: whether one has trained the adapter.
    """
    first, second = cli.summary["generations"]
    assert cli.summary["mode"] == "SIA-W+H" and first["lever"] == "harness"
    assert (second["lever"], second["algorithm"], second["parent"]) == ("weights", "grpo", 1)
    assert second["val"]["n"] == first["val"]["n"] == 8 and second["status"] in ("accepted", "rejected")
    curve = lines_of(cli.run / "gen_2" / "curve.jsonl")
    assert [line["step"] for line in curve] == list(range(1, STEPS + 1)) and all(set(line) == CURVE for line in curve)
    assert all(0 <= line["reward"] <= 1 for line in curve)
    assert [line["rollouts"] for line in curve] == [PROMPTS * SAMPLES] * STEPS
    drifts = [line["drift_kl"] for line in curve if line["tokens"]]  # without a gradient nothing is read again
    assert drifts and all(drift <= max_drift for drift in drifts)
    (built,) = (e["result"] for e in cli.journal if e["event"] == "done" and e["step"] == "gen_2/build")
    assert built["reward"] == [line["reward"] for line in curve] and built["fault"] == ""
    check_adapter(cli.run / "gen_2" / "adapter", base, service)
    check_calls(cli.run, folder, max_gap)


def check_adapter(adapter: Path, base: str, service: bool) -> None:
    """Check the adapter's origin and the names and sizes of its matrices."""
    from safetensors.numpy import load_file

    origin = json.loads((adapter / "sia_adapter.json").read_text())
    assert set(origin) == (ORIGIN | {"service"} if service else ORIGIN)
    assert (origin["steps"], origin["base_id"], origin["algorithm"], origin["parent"]) == (STEPS, base, "grpo", None)
    assert (origin["lora"]["rank"], origin["lora"]["alpha"]) == (8, 32)
    tensors = load_file(adapter / "adapter_model.safetensors")
    assert len(tensors) == MATRICES and sum(tensor.size for tensor in tensors.values()) == NUMBERS
    assert tensors["base_model.model.model.layers.29.mlp.down_proj.lora_A.weight"].shape == (8, 1536)
    assert any(tensor.any() for name, tensor in tensors.items() if "lora_B" in name), "a step has moved it"


def check_calls(run: Path, folder: Path, max_gap: float) -> None:
    """Check the recorded calls of both generations: keys, tokens of the chat as sent, and whose logprobs they are."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    model = PeftModel.from_pretrained(model, str(run / "gen_2" / "adapter"))

    def own_logprobs(record: dict[str, Any]) -> "torch.Tensor":
        tokens = record["tokens"]
        with torch.no_grad():
            logits = model(torch.tensor([tokens["prompt_ids"] + tokens["completion_ids"]])).logits[0]
        logprob_tv = logits[len(tokens["prompt_ids"]) - 1 : -1].log_softmax(-1)
        return logprob_tv.gather(1, torch.tensor(tokens["completion_ids"])[:, None])[:, 0]

    records = [lines_of(run / f"gen_{n}" / "trajectories.jsonl") for n in (1, 2)]
    for record in [*records[0], *records[1]]:
        check_call(record)
        chat = record["request"]["messages"]
        expected = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=True)["input_ids"]
        assert record["tokens"]["prompt_ids"] == list(expected)
    assert {record["tokens"]["adapter"] for record in records[0]} == {"base"}
    assert len(version := {record["tokens"]["adapter"] for record in records[1]}) == 1 and version != {"base"}
    first, second = records[0][:12], records[1][:12]
    trained = torch.cat([own_logprobs(record) for record in second])
    with model.disable_adapter():
        base = torch.cat([own_logprobs(record) for record in second])
        untrained = torch.cat([own_logprobs(record) for record in first])
    recorded = [torch.tensor([v for record in part for v in record["tokens"]["logprobs"]]) for part in (first, second)]
    gaps = [float((recorded[0] - untrained).abs().mean()), float((recorded[1] - trained).abs().mean())]
    # 0 if the base had answered, 1 if the adapter had; rounding to 16 bits is noise around both
    effect = trained - base
    share = float((recorded[1] - base) @ effect / (effect @ effect))
    print(f"nats to the base, to the adapter: {gaps}; share of the effect: {share:.2f} over {len(effect)} tokens")
    assert max(gaps) < max_gap and share > 0.5


def check_call(record: dict[str, Any]) -> None:
    """Check a recorded call: the chat as the harness sent it, and tokens with their logprobs."""
    assert set(record) == CALL and record["error"] is None and record["purpose"] == "select"
    tokens, request = record["tokens"], record["request"]
    assert set(tokens) == TOKENS
    assert [message["role"] for message in request["messages"]] == ["system", *["user", "assistant"] * 3, "user"]
    assert 0 < len(tokens["completion_ids"]) == len(tokens["logprobs"]) <= MAX_TOKENS
    assert all(value <= 0 and math.isfinite(value) for value in tokens["logprobs"])
