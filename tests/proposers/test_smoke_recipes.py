"""The recipes of the smoke task, run for real on data of its generator."""

import csv
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import cast

import pytest

from sia_runner.proposers import recipe_space
from sia_runner.proposers.recipe_space import ChoiceConstant, Constant, ConstantValue, Recipe, Space, Variant
from sia_runner.system import bundled_folder

TASK = bundled_folder("tasks") / "smoke"
SPACE = cast(Space, recipe_space.load_space(TASK / "recipes"))


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> tuple[Path, dict[str, str]]:
    """A view (220 labelled, 180 questions) and the answers of the questions."""
    made, view = tmp_path_factory.mktemp("made"), tmp_path_factory.mktemp("view")
    subprocess.run([sys.executable, str(TASK / "make_data.py"), "--out", str(made)], check=True, timeout=30)
    with (made / "labelled.csv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    random.Random(1).shuffle(rows)
    for name, part, columns in (
        ("train", rows[:220], ["id", "text", "label"]),
        ("questions", rows[220:], ["id", "text"]),
    ):
        with (view / f"{name}.csv").open("w", encoding="utf-8", newline="") as stream:
            writer = csv.DictWriter(stream, columns, extrasaction="ignore")
            writer.writeheader()
            writer.writerows(part)
    return view, {row["id"]: row["label"] for row in rows[220:]}


def accuracy(program: str, data: tuple[Path, dict[str, str]], folder: Path) -> float:
    view, gold = data
    (folder / "target_agent.py").write_text(program)
    command = [sys.executable, "-I", str(folder / "target_agent.py"), "--dataset_dir", str(view), "--working_dir"]
    subprocess.run([*command, str(folder)], check=True, timeout=20)
    with (folder / "submission.csv").open(encoding="utf-8", newline="") as stream:
        answers = {row["id"]: row["label"] for row in csv.DictReader(stream)}
    assert answers.keys() == gold.keys()
    return sum(answers[unit] == label for unit, label in gold.items()) / len(gold)


def corners(recipe: Recipe) -> list[Variant]:
    """Every constant at its first choice or lowest value, every constant at its last or highest."""

    def ends(constant: Constant) -> tuple[ConstantValue, ConstantValue]:
        if isinstance(constant, ChoiceConstant):
            return constant.choices[0], constant.choices[-1]
        return constant.tidy(constant.low), constant.tidy(constant.high)

    return [Variant(recipe.name, {name: ends(c)[side] for name, c in recipe.constants.items()}) for side in (0, 1)]


@pytest.mark.parametrize("recipe", SPACE.recipes.values(), ids=lambda recipe: recipe.name)
def test_each_recipe_answers_every_question_at_its_defaults_and_at_its_bounds(recipe, data, tmp_path):
    values = [accuracy(SPACE.program(v), data, tmp_path) for v in [recipe.default(), *corners(recipe)]]
    assert min(values) > 0.45, "better than the most frequent label"
    assert values[0] > 0.6


def test_marking_negations_is_what_the_task_is_about(data, tmp_path):
    words = accuracy(SPACE.program(SPACE.recipes["words_nb"].default()), data, tmp_path)
    tuned = Variant("negation_nb", {"ALPHA": 0.05, "SPAN": 1, "SOFT": True, "PAIRS": False})
    assert words < 0.75 and accuracy(SPACE.program(tuned), data, tmp_path) > 0.9


def test_a_run_of_the_slowest_recipe_takes_under_150_ms_of_processor_time(data, tmp_path):
    program, spent = SPACE.program(SPACE.recipes["softmax"].default()), []
    for _ in range(3):
        before = os.times()
        accuracy(program, data, tmp_path)
        after = os.times()
        spent.append(sum(after[2:4]) - sum(before[2:4]))  # of child processes, interpreter start included
    assert min(spent) < 0.15
