"""The programs of the LawBench task, run for real on made-up cases, 120 of them with a charge."""

import csv
import json
import random
import subprocess
import sys
from pathlib import Path
from typing import cast

import pytest

from sia_runner.agents import declared
from sia_runner.agents.constants import Choice, Constant, Value
from sia_runner.agents.space import Recipe, Space, Variant
from sia_runner.resources import bundled

TASK = bundled("tasks") / "lawbench"
SPACE = cast(Space, declared.load(TASK / "recipes"))
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


def run(program: str, view: tuple[Path, dict[str, str]], folder: Path) -> float:
    """Accuracy; fails unless there is exactly one valid row for each question."""
    (folder / "target_agent.py").write_text(program, encoding="utf-8")
    command = [sys.executable, "-I", str(folder / "target_agent.py"), "--dataset_dir", str(view[0]), "--working_dir"]
    done = subprocess.run([*command, str(folder)], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, ""), "a warning is a fault too: nobody reads 40 trials' worth of them"
    with (folder / "submission.csv").open(encoding="utf-8", newline="") as stream:
        header, *rows = csv.reader(stream)
    assert header == ["id", "label"]
    assert sorted(name for name, _ in rows) == sorted(view[1])
    assert {answer for _, answer in rows} <= CRIMES.keys()
    return sum(view[1][name] == answer for name, answer in rows) / len(rows)


def corner(recipe: Recipe, highest: bool) -> Variant:
    def end(constant: Constant) -> Value:
        if isinstance(constant, Choice):
            return constant.choices[-1 if highest else 0]
        return constant.tidy(constant.high if highest else constant.low)

    return Variant(recipe.name, {name: end(constant) for name, constant in recipe.constants.items()})


def test_the_naive_start_answers_every_question_and_stays_naive(view, tmp_path):
    program = (TASK / "reference" / "target_agent.py").read_text(encoding="utf-8")
    assert run(program, view, tmp_path) >= 0.2
    assert "TfidfVectorizer()" in program, "the start is the published baseline: default words, no segmentation"


@pytest.mark.parametrize("recipe", SPACE.recipes.values(), ids=lambda recipe: recipe.name)
def test_a_recipe_answers_every_question_from_few_damaged_texts(recipe, view, tmp_path):
    assert run(SPACE.program(recipe.default()), view, tmp_path) >= 0.8


@pytest.mark.parametrize("highest", [False, True], ids=["lowest", "highest"])
@pytest.mark.parametrize("recipe", SPACE.recipes.values(), ids=lambda recipe: recipe.name)
def test_no_value_at_a_bound_breaks_a_recipe(recipe, highest, view, tmp_path):
    assert run(SPACE.program(corner(recipe, highest)), view, tmp_path) >= 0.3


@pytest.mark.parametrize("recipe", SPACE.recipes.values(), ids=lambda recipe: recipe.name)
def test_a_recipe_lives_on_texts_without_a_character(recipe, view, tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    (empty / "train.csv").write_text("id,text,label\n0,,盗窃\n1,,放火\n", encoding="utf-8")
    (empty / "questions.csv").write_text("id,text\n2,\n", encoding="utf-8")
    run(SPACE.program(recipe.default()), (empty, {"2": "盗窃"}), tmp_path)


def test_a_recipe_gives_the_same_answers_twice(view, tmp_path):
    slowest, found = SPACE.recipes[list(SPACE.recipes)[-1]], []
    for _ in range(2):
        run(SPACE.program(slowest.default()), view, tmp_path)
        found.append((tmp_path / "submission.csv").read_bytes())
    assert found[0] == found[1]
