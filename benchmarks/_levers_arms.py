"""The arms of levers.py: what each is on the command line of `python -m sia_runner`."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from sia_runner.config.task import Metric, PerQuestionVerifier
from sia_runner.store.run_directory import read_json

HARNESS = "SIA-H"
MANY = "SIA-H, N candidates"
ALGORITHMS = ("ppo", "grpo", "entropic", "reinforce", "best_of_n", "dpo")
CONTROL = "cross-entropy"
CONTROL_OF_VISITS = "cross-entropy, equal visits"
CONTROLS = (CONTROL, CONTROL_OF_VISITS)
ARMS = (HARNESS, MANY, *ALGORITHMS, *CONTROLS)

GENERATIONS = 3  # the first harness, one from the search, and one more from the search or from training
_SEARCH = ("meta_agent=recipes", "trainer=none")
_CONTROL_BATCH = 32
_ALL = 1_000_000  # epochs: as many as the steps take


@dataclass(frozen=True, slots=True)
class Experiment:
    """What all arms of a table share. The amounts are those of GRPO, and every training rolls out as much."""

    task: str
    settings: tuple[str, ...]  # more overrides of every arm
    steps: int
    questions: int  # of a step
    samples: int  # of a question
    learning_rate: float  # of the online algorithms, and of the controls
    harnesses: str = ""  # a folder for meta_agent=replay in the place of the search: gen_1 and gen_2; SIA-H is both

    @property
    def rollouts(self) -> int:
        """The questions that a training answers, with repetitions."""
        return self.steps * self.questions * self.samples

    def shared(self, generations: int = GENERATIONS) -> list[str]:
        """Return the overrides of all arms."""
        return [f"task={self.task}", "target_agent=policy", f"max_gen={generations}", *self.settings]


def trainer_settings(experiment: Experiment, arm: str, group_size: int) -> list[str]:
    """Return the overrides of a trainer that make it roll out as much as the others; `group_size`: its default."""
    steps, questions, samples = experiment.steps, experiment.questions, experiment.samples
    if arm in CONTROLS:
        rows = _CONTROL_BATCH if arm == CONTROL else questions
        taken = max(1, experiment.rollouts // _CONTROL_BATCH) if arm == CONTROL else steps
        amounts = [f"trainer.prompts={steps * questions}", "trainer.group_size=2", f"trainer.steps={taken}"]
        options = {"rounds": 1, "batch": rows, "epochs": _ALL}
        rate = f"trainer.learning_rate={experiment.learning_rate}"
        return ["trainer=best_of_n", rate, *amounts, *_options(options), "+trainer.options.threshold=1.0"]
    if arm in ("best_of_n", "dpo"):  # a round for each step
        options = {"rounds": steps, "batch": max(1, questions // 2) if arm == "best_of_n" else questions}
        amounts = [f"trainer.prompts={steps * questions}", f"trainer.group_size={samples}", f"trainer.steps={steps}"]
        return [f"trainer={arm}", *amounts, *_options(options)]
    group = max(4, samples * group_size // 8)  # entropic takes twice as many samples of half as many questions
    amounts = [f"trainer.group_size={group}", f"trainer.prompts_per_step={max(1, questions * samples // group)}"]
    return [f"trainer={arm}", f"trainer.steps={steps}", *amounts]


def _options(options: dict[str, Any]) -> list[str]:
    return [f"trainer.options.{name}={value}" for name, value in options.items()]


def overrides(experiment: Experiment, arm: str, seed: int, harness_run: Path) -> list[str]:
    """Return the overrides of one arm; `harness_run` is the run directory of the SIA-H arm of this seed.

    The other arms repeat its first generations, so that they differ only in how the last generation is spent. MANY
    spends it on as many candidates as answer about as many questions on dev and val as a training's rollouts.
    """
    if arm == HARNESS and experiment.harnesses:
        replayed = ["meta_agent=replay", f"meta_agent.dir={experiment.harnesses}", "trainer=none"]
        return [*experiment.shared(GENERATIONS - 1), f"seed={seed}", *replayed]
    if arm == HARNESS:
        return [*experiment.shared(), f"seed={seed}", *_SEARCH]
    if arm == MANY:
        candidates = max(1, round(experiment.rollouts / _questions_of_candidate(harness_run)))
        return [*experiment.shared(GENERATIONS - 1 + candidates), f"seed={seed}", *_SEARCH]
    replayed = [f"seed={seed}", "meta_agent=replay", f"meta_agent.dir={harness_run}"]
    group_size = 16 if arm == "entropic" else 8
    return [*experiment.shared(), *replayed, *trainer_settings(experiment, arm, group_size)]


def _questions_of_candidate(harness_run: Path) -> int:
    return len(read_json(harness_run / "gen_1" / "scores.json")["outcomes"])


def arms_of(metric: Metric, chosen: Sequence[str]) -> list[str]:
    """Return the chosen arms that a task allows: controls need one right answer for each question."""
    gold = metric.verifier in get_args(PerQuestionVerifier)
    return [arm for arm in ARMS if arm in chosen and (gold or arm not in CONTROLS)]
