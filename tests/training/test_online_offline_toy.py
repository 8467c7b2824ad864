"""Each of the six algorithms solves the toy: P(right answer) on prompts never seen, from 0.35.

One seed; `SIA_TOY_SEEDS=3 pytest -m slow -rP` on this file shows three, in about two minutes.
"""

import os

import pytest

torch = pytest.importorskip("torch", reason="training needs torch")
pytest.importorskip("trl", reason="the drivers are TRL's")

from sia_runner.policy import lora
from sia_runner.training import drivers
from tests.training import toy

ALGORITHMS = {
    "grpo": ({"steps": 60, "prompts_per_step": 8}, 0.95),
    "entropic": ({"steps": 60, "prompts_per_step": 8}, 0.95),
    "reinforce": ({"steps": 60, "prompts_per_step": 8, "kl_coefficient": 0.02}, 0.95),
    "ppo": ({"steps": 60, "prompts_per_step": 8}, 0.95),
    "best_of_n": ({"steps": 80, "prompts": 256, "options": {"rounds": 8}}, 0.93),
    "dpo": (
        {"steps": 80, "prompts": 256, "kl_coefficient": 0.3, "learning_rate": 5e-4, "options": {"rounds": 8}},
        0.93,
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(int(os.environ.get("SIA_TOY_SEEDS", "1"))))
@pytest.mark.parametrize("algorithm", list(ALGORITHMS))
def test_the_toy_is_solved(algorithm, seed, tmp_path):
    torch.set_num_threads(1)
    policy = toy.ToyPolicy(toy.warm(toy.small_model(seed), seed=seed), toy.small_tokenizer())
    assert toy.chance(policy.model, toy.HELD_OUT) < 0.5
    changes, least = ALGORITHMS[algorithm]
    settings = toy.settings(algorithm, **changes)
    train = drivers.train
    train(toy.assignment(policy, settings, tmp_path, seed=seed))
    learned = lora.load_adapter(policy.model, tmp_path / "adapter", policy.base_sha256, "served")
    right = toy.chance(learned, toy.HELD_OUT)
    print(f"{algorithm}, seed {seed}: P(right answer) {right:.4f}")
    assert right >= least
