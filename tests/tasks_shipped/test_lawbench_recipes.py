"""The programs of the LawBench task, run for real on made-up cases, 120 of them with a charge."""

import csv
import json
import random
from pathlib import Path
from typing import cast

import pytest

from sia_runner.proposers import recipe_space
from sia_runner.proposers.recipe_space import ChoiceConstant, Constant, ConstantValue, Recipe, Space, Variant
from sia_runner.system import bundled_folder
from tests.tasks_shipped.together import run_together

TASK = bundled_folder("tasks") / "lawbench"
SPACE = cast(Space, recipe_space.load_space(TASK / "recipes"))
DEFAULTS = [SPACE.program(recipe.default()) for recipe in SPACE.recipes.values()]
CRIMES = {
    "盗窃": "窃取财物",
    "放火": "点燃房屋",
    "诈骗": "骗取钱款",
    "[窝藏、包庇]": "藏匿逃犯",
    "交通肇事": "驾车撞人",
}
ODD = ("", " ", '"; DROP, 表', "🚀\u200b", "某某\n某", "\ufeff", "x" * 5000, "１２３", "×")


def case(rng: random.Random, charge: str) -> dict[str, str]:
    """A few clauses of noise around what was done; one text in ten is odd and says nothing."""
    noise = ["".join(chr(rng.randrange(0x4E00, 0x4F00)) for _ in range(9)) for _ in range(4)]
    text = f"被告人王{rng.randrange(99)}某，{noise[0]}，{noise[1]}，{CRIMES[charge]}，{noise[2]}。{noise[3]}。"
    return {"text": rng.choice(ODD) if rng.random() < 0.1 else text, "label": charge}


@pytest.fixture(scope="module")
def view(tmp_path_factory) -> tuple[Path, dict[str, str]]:
    """A folder with 120 labelled cases (one charge has a single one) and 40 questions, and the answers to these."""
    folder, rng = tmp_path_factory.mktemp("view"), random.Random(1)
    common = list(CRIMES)[:-1]
    rows = [case(rng, rng.choice(common)) for _ in range(159)]
    rows.insert(0, {"text": "被告人驾车撞人。", "label": list(CRIMES)[-1]})
    for number, row in enumerate(rows):
        row["id"] = str(number)
    for name, part, columns in (
        ("train", rows[:120], ["id", "text", "label"]),
        ("questions", rows[120:], ["id", "text"]),
    ):
        with (folder / f"{name}.csv").open("w", encoding="utf-8", newline="") as stream:
            writer = csv.DictWriter(stream, columns, extrasaction="ignore", lineterminator="\n")
            writer.writeheader()
            writer.writerows(part)
    (folder / "classes.json").write_text(json.dumps(list(CRIMES), ensure_ascii=False), encoding="utf-8")
    return folder, {row["id"]: row["label"] for row in rows[120:]}


def run(programs: list[str], view: tuple[Path, dict[str, str]], folder: Path) -> list[float]:
    """Accuracies; exactly one valid row a question."""
    return [accuracy(home, view[1]) for home in run_together(programs, view[0], folder)]


def accuracy(home: Path, gold: dict[str, str]) -> float:
    with (home / "submission.csv").open(encoding="utf-8", newline="") as stream:
        header, *rows = csv.reader(stream)
    assert header == ["id", "label"]
    assert sorted(name for name, _ in rows) == sorted(gold)
    assert {answer for _, answer in rows} <= CRIMES.keys()
    return sum(gold[name] == answer for name, answer in rows) / len(rows)


def corner(recipe: Recipe, highest: bool) -> Variant:
    def end(constant: Constant) -> ConstantValue:
        if isinstance(constant, ChoiceConstant):
            return constant.choices[-1 if highest else 0]
        return constant.tidy(constant.high if highest else constant.low)

    return Variant(recipe.name, {name: end(constant) for name, constant in recipe.constants.items()})


def test_the_naive_start_answers_every_question_and_stays_naive(view, tmp_path):
    program = (TASK / "reference" / "target_agent.py").read_text(encoding="utf-8")
    assert run([program], view, tmp_path)[0] >= 0.2
    assert "TfidfVectorizer()" in program, "the start is the published baseline: default words, no segmentation"


def test_every_recipe_answers_every_question_from_few_damaged_texts(view, tmp_path):
    assert min(run(DEFAULTS, view, tmp_path)) >= 0.8


@pytest.mark.parametrize("highest", [False, True], ids=["lowest", "highest"])
def test_no_value_at_a_bound_breaks_a_recipe(highest, view, tmp_path):
    programs = [SPACE.program(corner(recipe, highest)) for recipe in SPACE.recipes.values()]
    assert min(run(programs, view, tmp_path)) >= 0.3


def test_every_recipe_lives_on_texts_without_a_character(tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    (empty / "train.csv").write_text("id,text,label\n0,,盗窃\n1,,放火\n", encoding="utf-8")
    (empty / "questions.csv").write_text("id,text\n2,\n", encoding="utf-8")
    run(DEFAULTS, (empty, {"2": "盗窃"}), tmp_path)


def test_a_recipe_gives_the_same_answers_twice(view, tmp_path):
    homes = run_together([DEFAULTS[-1], DEFAULTS[-1]], view[0], tmp_path)
    assert len({(home / "submission.csv").read_bytes() for home in homes}) == 1
