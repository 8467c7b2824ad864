"""The toy of tests/training: how fast an online algorithm learns it, and whether it falls again.

python benchmarks/ppo_toy.py [--seeds 12 13 14] [--batches 100] [--iterations 4] [--rewards 0 1] [--kl 0.05]
                            [--options lam=1.0]

P(right) is the mean probability of the right answer over 128 prompts that training never sees, before each batch of
rollouts (8 questions with 8 samples each) and at the end. Nothing stops a training early. Needs the extra `training`.
"""

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

from _table import aligned

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the toy belongs to the tests of this checkout

_REACHED = 0.95
_HEADER = ("seed", "batches to .95", "lowest after that", "mean of the second half", "at the end")


@dataclass(frozen=True, slots=True)
class Curve:
    """P(right) of one seed: before each batch, and after the last one."""

    seed: int
    right: tuple[float, ...]

    @property
    def reached(self) -> int | None:
        """The number of batches after which P(right) is .95 for the first time; None: never."""
        return next((batch for batch, right in enumerate(self.right) if right >= _REACHED), None)

    @property
    def lowest(self) -> float | None:
        """The lowest P(right) from then on."""
        return None if self.reached is None else min(self.right[self.reached :])

    def cells(self) -> tuple[str, ...]:
        """Return the row of the table."""
        half = fmean(self.right[len(self.right) // 2 :])
        reached, lowest = ("never", "") if self.lowest is None else (str(self.reached), f"{self.lowest:.3f}")
        return str(self.seed), reached, lowest, f"{half:.3f}", f"{self.right[-1]:.3f}"


def train_toy(seed: int, algorithm: str, batches: int, rewards: Sequence[float], **changes: Any) -> Curve:
    """Train the toy once. `rewards`: of a wrong and of a right answer; `changes`: of toy.settings."""
    import torch

    from sia_runner.policy.lora import load_adapter
    from sia_runner.training.drivers import train
    from tests.training import toy

    torch.set_num_threads(1)
    policy = toy.ToyPolicy(toy.warm(toy.small_model(seed), seed=seed), toy.small_tokenizer())
    right: list[float] = []

    def roll(*questions: Any, **how: Any) -> Any:
        right.append(toy.chance(policy.model, toy.HELD_OUT))
        return rolled(*questions, **how)

    rolled = toy.ToyRoll(policy, change=lambda one: replace(one, reward=rewards[int(one.reward or 0)]))
    iterations = changes.get("options", {}).get("iterations", 1)
    settings = toy.settings(algorithm, steps=batches * iterations, prompts_per_step=8, **changes)
    with tempfile.TemporaryDirectory() as folder:
        train(toy.assignment(policy, settings, Path(folder), seed=seed, roll=roll))
        learned = load_adapter(policy.model, Path(folder) / "adapter", policy.base_sha256, "served")
        right.append(toy.chance(learned, toy.HELD_OUT))
    return Curve(seed, tuple(right))


def main() -> int:
    args = _arguments()
    options = {"iterations": args.iterations} if args.iterations != 1 else {}
    options |= {name: json.loads(value) for name, value in (option.split("=", 1) for option in args.options)}
    changes = {"options": options, "learning_rate": args.learning_rate, "kl_coefficient": args.kl}
    curves = []
    for seed in args.seeds:
        curves.append(train_toy(seed, args.algorithm, args.batches, args.rewards, **changes))
        print(f"seed {seed} is done", file=sys.stderr, flush=True)
    print(aligned([_HEADER, *(curve.cells() for curve in curves)]))
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--algorithm", choices=("ppo", "grpo", "entropic", "reinforce"), default="ppo")
    parser.add_argument("--seeds", type=int, nargs="+", default=[12, 13, 14, 15, 16, 17])
    parser.add_argument("--batches", type=int, default=100, help="of rollouts")
    parser.add_argument("--iterations", type=int, default=1, help="optimizer steps on each batch")
    parser.add_argument("--rewards", type=float, nargs=2, default=[0.0, 1.0], metavar=("WRONG", "RIGHT"))
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument(
        "--kl", type=float, default=0.05, help="coefficient of the KL to the base, as tiny policies have"
    )
    parser.add_argument("--options", nargs="*", default=[], metavar="NAME=VALUE", help="of the algorithm")
    return parser.parse_args()


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.exit(main())
