"""The programs of the Spaceship Titanic task, run for real on made-up passengers, a hundred of them with answers."""

import csv
import random
from pathlib import Path
from typing import cast

import pytest

from sia_runner.proposers import recipe_space
from sia_runner.proposers.recipe_space import ChoiceConstant, Constant, ConstantValue, Recipe, Space, Variant
from sia_runner.system import bundled_folder
from tests.tasks_shipped.together import run_together

TASK = bundled_folder("tasks") / "spaceship_titanic"
SPACE = cast(Space, recipe_space.load_space(TASK / "recipes"))
SPENDING = ("RoomService", "FoodCourt", "ShoppingMall", "Spa", "VRDeck")
ODD = ("", " ", "Zoë  ", '"; DROP, it', "星 🚀\u200b", "a\nb", "=1+1", "\ufeff", "x" * 5000)
CABINS = ("", "/", "F//P", "T", "B/0/S/extra", "🚀/١٢/S", "G/nan/P", "C/-7/P", "D/1e400/S")


def passenger(rng: random.Random, group: int) -> dict[str, str]:
    """Alone in the group, one cell in five empty or odd. Whoever is asleep is transported and spends nothing."""
    asleep = rng.random() < 0.5
    row = {
        "PassengerId": f"{group:04d}_01",
        "HomePlanet": rng.choice(("Earth", "Europa", "Mars")),
        "CryoSleep": str(asleep),
        "Cabin": f"{rng.choice('ABG')}/{rng.randrange(1800)}/{rng.choice('PS')}",
        "Destination": rng.choice(("TRAPPIST-1e", "55 Cancri e")),
        "Age": str(float(rng.randrange(80))),
        "VIP": "False",
        **{column: "0.0" if asleep else str(float(rng.randrange(1, 30000))) for column in SPENDING},
        "Name": "Altark Susent",
    }
    for column in list(row)[1:]:
        if rng.random() < 0.2:
            row[column] = rng.choice({"Name": ODD, "HomePlanet": ODD, "Cabin": CABINS}.get(column, ("",)))
    return row | {"Transported": str(asleep)}


@pytest.fixture(scope="module")
def view(tmp_path_factory) -> tuple[Path, dict[str, str]]:
    """A folder with 100 labelled passengers and 30 questions, and the answers to these."""
    folder, rng = tmp_path_factory.mktemp("view"), random.Random(1)
    rows = [passenger(rng, group) for group in range(130)]
    for name, part, columns in (("train", rows[:100], list(rows[0])), ("questions", rows[100:], list(rows[0])[:-1])):
        with (folder / f"{name}.csv").open("w", encoding="utf-8", newline="") as stream:
            writer = csv.DictWriter(stream, columns, extrasaction="ignore", lineterminator="\n")
            writer.writeheader()
            writer.writerows(part)
    return folder, {row["PassengerId"]: row["Transported"] for row in rows[100:]}


def run(programs: list[str], view: tuple[Path, dict[str, str]], folder: Path) -> list[float]:
    """Accuracies; exactly one valid row a question."""
    return [accuracy(home, view[1]) for home in run_together(programs, view[0], folder)]


def accuracy(home: Path, gold: dict[str, str]) -> float:
    with (home / "submission.csv").open(encoding="utf-8", newline="") as stream:
        header, *rows = csv.reader(stream)
    assert header == ["PassengerId", "Transported"]
    assert sorted(name for name, _ in rows) == sorted(gold)
    assert {answer for _, answer in rows} <= {"True", "False"}
    return sum(gold[name] == answer for name, answer in rows) / len(rows)


def corner(recipe: Recipe, highest: bool) -> Variant:
    def end(constant: Constant) -> ConstantValue:
        if isinstance(constant, ChoiceConstant):
            return constant.choices[-1 if highest else 0]
        return constant.tidy(constant.high if highest else constant.low)

    return Variant(recipe.name, {name: end(constant) for name, constant in recipe.constants.items()})


def test_the_naive_start_learns_from_the_numbers_alone(view, tmp_path):
    assert run([(TASK / "reference" / "target_agent.py").read_text(encoding="utf-8")], view, tmp_path)[0] >= 0.7


def test_every_recipe_answers_every_question_from_a_hundred_damaged_records(view, tmp_path):
    assert min(run([SPACE.program(recipe.default()) for recipe in SPACE.recipes.values()], view, tmp_path)) >= 0.9


@pytest.mark.parametrize("highest", [False, True], ids=["lowest", "highest"])
def test_no_value_at_a_bound_breaks_a_recipe(highest, view, tmp_path):
    programs = [SPACE.program(corner(recipe, highest)) for recipe in SPACE.recipes.values()]
    assert min(run(programs, view, tmp_path)) >= 0.7


def test_a_recipe_gives_the_same_answers_twice(view, tmp_path):
    run([SPACE.program(SPACE.recipes["blend"].default())] * 2, view, tmp_path)
    assert (tmp_path / "0" / "submission.csv").read_bytes() == (tmp_path / "1" / "submission.csv").read_bytes()
