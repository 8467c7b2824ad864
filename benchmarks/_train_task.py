"""Writes what trainers are compared on into a folder that any environment can read.

It is a small warmed model, prompts with their right answers, and recorded rollouts.

python benchmarks/_train_task.py FOLDER     (needs the extra `training`, and the repository on PYTHONPATH)
"""

import json
import random
import sys
from pathlib import Path
from typing import Any

QUESTIONS, SAMPLES = 8, 8  # of a step
SHAPES = {
    "7 + 2 tokens": (7, 2),
    "48 + 48 tokens": (48, 48),
    "160 + 2 tokens": (160, 2),
}  # prompt and completion of a recorded rollout
STEPS = 23  # recorded of each shape


def main(folder: Path) -> None:
    import torch

    from tests.training import toy

    torch.set_num_threads(1)
    model = toy.warm(toy.small_model(max_position_embeddings=192))
    model.save_pretrained(folder / "model")
    toy.small_tokenizer().save_pretrained(folder / "model")
    prompts_by_split = {"train": toy.ROLLED, "held": toy.HELD_OUT}
    prompts = {split: [toy.prompt_of(unit) for unit in units] for split, units in prompts_by_split.items()}
    answers = {split: [toy.answer_to(prompt) for prompt in split_prompts] for split, split_prompts in prompts.items()}
    task = {"prompts": prompts, "answers": answers, "limit": 2}
    (folder / "task.json").write_text(json.dumps(task), encoding="utf-8")
    (folder / "rollouts.json").write_text(json.dumps(_rollouts(model, toy.VOCABULARY)), encoding="utf-8")


def _rollouts(model: Any, vocabulary: int) -> dict[str, Any]:
    """Return, by shape, a list of steps, each a list of groups, each a list of (prompt, completion, logprobs, reward).

    Tokens are drawn uniformly, which costs an optimizer step the same as any others; logprobs are the model's.
    """
    draw = random.Random(0)
    rollouts: dict[str, Any] = {}
    for name, (prompt, completion) in SHAPES.items():
        rollouts[name] = []
        for _ in range(STEPS):
            groups = []
            for _ in range(QUESTIONS):
                ids = [draw.randrange(4, vocabulary) for _ in range(prompt)]
                completions = [[draw.randrange(4, vocabulary) for _ in range(completion)] for _ in range(SAMPLES)]
                rewards = [1.0, 0.0, *(float(draw.random() < 0.5) for _ in completions[2:])]
                groups.append(
                    list(zip([ids] * SAMPLES, completions, _logprobs(model, ids, completions), rewards, strict=True))
                )
            rollouts[name].append(groups)
    return rollouts


def _logprobs(model: Any, prompt: list[int], completions: list[list[int]]) -> list[list[float]]:
    import torch

    ids = torch.tensor([[*prompt, *tokens] for tokens in completions])
    with torch.no_grad():
        logprob_btv = torch.log_softmax(model(input_ids=ids).logits[:, len(prompt) - 1 : -1].float(), -1)
    return logprob_btv.gather(2, ids[:, len(prompt) :, None]).squeeze(2).tolist()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
