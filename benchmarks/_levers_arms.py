"""The arms of lawbench_levers.py: what each is on the command line of `python -m sia_runner`."""

from pathlib import Path

HARNESS = "SIA-H"
ALGORITHMS = ("ppo", "grpo", "entropic", "reinforce", "best_of_n", "dpo")
CONTROL = "cross-entropy"
ARMS = (HARNESS, *ALGORITHMS, CONTROL)

GENERATIONS = 3  # the first harness, one from the search, and one more from the search or from training
_SHARED = ("task=lawbench", "target_agent=policy", f"max_gen={GENERATIONS}")
_SEARCH = ("meta_agent=recipes", "trainer=none")
# 24,576 rollouts each: 48 times 64 questions with 8 samples, which is what the online algorithms do by default. The
# rate of the offline ones was chosen on val of seed 0: at 2e-3, the default, DPO loses .08 there.
_OFFLINE = (
    "trainer.learning_rate=1e-3",
    "trainer.prompts=3072",
    "trainer.group_size=8",
    "trainer.steps=48",
    "trainer.options.rounds=48",
)
_ROLLOUTS = {
    "entropic": ("trainer.prompts_per_step=32",),  # 16 samples
    "best_of_n": (*_OFFLINE, "trainer.options.batch=32"),
    "dpo": (*_OFFLINE, "trainer.options.batch=64"),
}
# The control sees as many rows, in smaller batches.
_GOLD = (
    "trainer=best_of_n",
    "trainer.prompts=1840",
    "trainer.group_size=2",
    "trainer.steps=768",
    "trainer.options.rounds=1",
    "trainer.options.batch=32",
    "+trainer.options.threshold=1.0",
)


def overrides(arm: str, seed: int, harness_run: Path) -> list[str]:
    """Return the overrides of one arm; `harness_run` is the run directory of the SIA-H arm of this seed.

    The other arms repeat its first generations, so that they differ only in how the last generation is spent.
    """
    shared = [*_SHARED, f"seed={seed}"]
    if arm == HARNESS:
        return [*shared, *_SEARCH]
    replayed = [*shared, "meta_agent=replay", f"meta_agent.dir={harness_run}"]
    return [*replayed, *(_GOLD if arm == CONTROL else [f"trainer={arm}", *_ROLLOUTS.get(arm, ())])]
