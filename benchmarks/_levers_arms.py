"""The arms of lawbench_levers.py: what each is on the command line of `python -m sia_runner`."""

from pathlib import Path

HARNESS = "SIA-H"
ALGORITHMS = ("ppo", "grpo", "entropic", "reinforce", "best_of_n", "dpo")
CONTROL = "cross-entropy"
ARMS = (HARNESS, *ALGORITHMS, CONTROL)

GENERATIONS = 3  # the first harness, one from the search, and one more from the search or from training
_SHARED = ("task=lawbench", "target_agent=policy", f"max_gen={GENERATIONS}")
_SEARCH = ("meta_agent=recipes", "trainer=none")
# 8,192 rollouts each: what the online algorithms take (16 steps of 64 questions, 8 samples of each).
_ROLLOUTS = {
    "entropic": ("trainer.questions=32",),
    "best_of_n": ("trainer.questions=1024", "trainer.samples=8"),
    "dpo": ("trainer.questions=1024",),
}
# The control sees as many rows, in smaller batches.
_GOLD = (
    "trainer=best_of_n",
    "trainer.questions=1840",
    "trainer.samples=2",
    "trainer.steps=256",
    "trainer.options.rounds=1",
    "trainer.options.batch=32",
    "+trainer.options.threshold=1.0",
)


def overrides(arm: str, seed: int, harness_run: Path) -> list[str]:
    """`harness_run`: the run directory of the SIA-H arm of this seed. The other arms go through its first generations
    again, so that they differ in how the last generation is spent, and in nothing else."""
    shared = [*_SHARED, f"seed={seed}"]
    if arm == HARNESS:
        return [*shared, *_SEARCH]
    replayed = [*shared, "meta_agent=replay", f"meta_agent.dir={harness_run}"]
    return [*replayed, *(_GOLD if arm == CONTROL else [f"trainer={arm}", *_ROLLOUTS.get(arm, ())])]
