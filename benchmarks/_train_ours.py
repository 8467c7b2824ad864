"""Our online driver as a worker: GRPO on recorded rollouts, PPO on its own."""

import json
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from _train_worker import Laps, chance, serve

from sia_runner.config.training import AlgorithmConfig
from sia_runner.records import OutcomeKind, SampledCall, Trajectory
from sia_runner.training import drivers
from sia_runner.training.batch import derive_seed
from sia_runner.training.protocol import TrainingJob
from tests.training.toy import ToyPolicy


def policy(folder: str, dtype: str = "float32") -> ToyPolicy:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(f"{folder}/model", dtype=getattr(torch, dtype))
    return ToyPolicy(model.eval(), AutoTokenizer.from_pretrained(f"{folder}/model"))


def grpo(folder: str, shape: str, steps: int, rank: int, rate: float, dtype: str = "float32") -> dict[str, Any]:
    """Steps on recorded rollouts."""
    recorded = json.loads(Path(folder, "rollouts.json").read_text())[shape][:steps]

    def roll(units: Sequence[str], *, samples: int, step: int, temperature: float) -> list[Trajectory]:
        return [
            Trajectory(unit, at, (_call(prompt, completion, logprobs),), reward, OutcomeKind.PARTIAL)
            for unit, group in zip(units, recorded[step], strict=True)
            for at, (prompt, completion, logprobs, reward) in enumerate(group)
        ]

    group = recorded[0][0]
    settings = _settings("grpo", steps, len(recorded[0]), len(group), rank, rate, len(group[0][0]) + len(group[0][1]))
    tokens = sum(len(row[1]) for group in recorded[0] for row in group)
    return _train(policy(folder, dtype), settings, roll, [f"q{n}" for n in range(99)], 0, Laps()).report(tokens)


def ppo(folder: str, batches: int, rows: int, rank: int, rate: float, epochs: int, seed: int) -> dict[str, Any]:
    """Take `epochs` optimizer steps on each rollout batch, sampled by the model's `generate` as the peer's are.

    Reports P(right answer) after each batch.
    """
    task = json.loads(Path(folder, "task.json").read_text())
    prompts, answers, limit = task["prompts"]["train"], task["answers"]["train"], task["limit"]
    learner = policy(folder)

    def roll(units: Sequence[str], *, samples: int, step: int, temperature: float) -> list[Trajectory]:
        batch = [prompts[int(unit)] for unit in units]
        calls = _draw(learner.model, batch, limit, derive_seed(seed, step))
        return [
            Trajectory(unit, 0, (call,), float(call.completion_ids[0] == answers[int(unit)]), OutcomeKind.PARTIAL)
            for unit, call in zip(units, calls, strict=True)
        ]

    settings = _settings("ppo", batches * epochs, rows, 1, rank, rate, 16, iterations=epochs)
    laps = Laps(lambda: chance(learner.model, task["prompts"]["held"], task["answers"]["held"]))
    return _train(learner, settings, roll, [str(n) for n in range(len(prompts))], seed, laps, epochs).report(
        rows * limit
    )


def _train(
    policy: ToyPolicy, settings: AlgorithmConfig, roll: Any, units: list[str], seed: int, laps: Laps, passes: int = 1
) -> Laps:
    """A lap is a batch of rollouts with all its passes."""

    def first_roll(units: Sequence[str], **options: Any) -> list[Trajectory]:
        if not laps.wall:
            laps.start()
        return roll(units, **options)

    messages: list[str] = []

    def say(line: str) -> None:  # once a step
        messages.append(line)
        if len(messages) % passes == 0:
            laps.stepped()

    with tempfile.TemporaryDirectory() as work_folder:
        folder = Path(work_folder)
        work = {"start": None, "out": folder / "adapter", "work": folder / "work"}
        drivers.train(TrainingJob(settings, policy, first_roll, units, **work, seed=seed, say=say))
    return laps


def _draw(model: Any, prompts: list[list[int]], limit: int, seed: int) -> list[SampledCall]:
    torch.manual_seed(seed)
    ids = torch.tensor(prompts)
    end = model.config.eos_token_id
    options = {"max_new_tokens": limit, "do_sample": True, "top_k": 0, "top_p": 1.0, "temperature": 1.0}
    with torch.no_grad():
        output = model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            **options,
            output_scores=True,
            return_dict_in_generate=True,
        )
    completions = output.sequences[:, ids.shape[1] :]
    logprob_bt = torch.log_softmax(torch.stack(output.scores, 1), -1).gather(2, completions[:, :, None]).squeeze(2)
    calls = []
    for prompt, tokens, logprobs in zip(prompts, completions.tolist(), logprob_bt.tolist(), strict=True):
        length = tokens.index(end) + 1 if end in tokens else len(tokens)
        calls.append(_call(prompt, tokens[:length], logprobs[:length]))
    return calls


def _call(prompt: list[int], completion: list[int], logprobs: list[float]) -> SampledCall:
    return SampledCall(tuple(prompt), tuple(completion), tuple(logprobs), "stop", "live")


def _settings(
    name: str, steps: int, questions: int, samples: int, rank: int, rate: float, length: int, **options: int
) -> AlgorithmConfig:
    plain = {"name": name, "kind": "online", "mode": "SIA-W+H", "algorithm": name, "max_length": length}
    size = {"steps": steps, "prompts_per_step": questions, "group_size": samples, "learning_rate": rate}
    lora = {"rank": rank, "alpha": 2 * rank}
    # Nothing ends early: all steps are to be timed.
    limits = ("max_kl", "min_entropy", "max_uniform_groups", "max_length_ratio", "max_drift")
    unwatched = dict.fromkeys(limits)
    return AlgorithmConfig.model_validate(
        {**plain, **size, "lora": lora, "early_stopping": unwatched, "options": options}
    )


if __name__ == "__main__":
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    serve({"grpo": grpo, "ppo": ppo})
