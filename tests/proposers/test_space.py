from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sia_runner.proposers import recipe_space
from sia_runner.proposers.protocol import ProposerError
from sia_runner.proposers.recipe_space import ChoiceConstant, NumberConstant, Variant
from sia_runner.system import bundled_folder

GOOD = """
recipes:
  svc:
    file: svc.py
    title: one
    idea: two
    constants:
      C: {low: 0.1, high: 10.0, log: true, default: 1.0, says: three}
      N: {low: 1, high: 3, default: 2}
      MODE: {choices: [true, false, null, text], default: true}
"""
PROGRAM = "C = 1.0\nN = 2\nMODE = True\n"


def load(folder, text=GOOD, program: str | bytes = PROGRAM):
    (folder / "recipes.yaml").write_text(text)
    (folder / "svc.py").write_bytes(program if isinstance(program, bytes) else program.encode())
    return recipe_space.load_space(folder)


def test_a_declared_space_is_read_whole(tmp_path):
    space = load(tmp_path)
    assert space is not None
    [recipe] = space.recipes.values()
    assert (recipe.name, recipe.order, recipe.title, recipe.idea) == ("svc", 0, "one", "two")
    assert recipe.constants["C"] == NumberConstant(0.1, 10.0, 1.0, True, "three")
    assert recipe.constants["MODE"] == ChoiceConstant((True, False, None, "text"), True)
    assert space.program(Variant("svc", {"C": 2.5, "N": 3, "MODE": None})) == "C = 2.5\nN = 3\nMODE = None\n"


def test_a_task_without_recipes_has_no_space(tmp_path):
    assert recipe_space.load_space(tmp_path) is None


def test_a_whole_number_may_stand_for_a_float_in_the_program(tmp_path):
    assert load(tmp_path, program="C = 1\nN = 2\nMODE = True\n") is not None


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ("file: svc.py", "file: gone.py", "svc: file gone.py"),
        ("file: svc.py", "file: ../svc.py", "svc: file ../svc.py"),
        ("title: one", "", "svc: title"),
        ("title: one", "title: 3", "svc: title is 3"),
        ("title: one", "titel: one", "svc: .*titel.*constants, file, idea, title"),
        ("N: {", "M: {", "svc.py, M "),
        ("default: 2", "default: 3", "svc, constant N: default 3 .*2 in svc.py"),
        ("default: 2", "default: 7", "svc, constant N: default 7 .*1 to 3"),
        ("default: 2", "default: 2.5", "default 2.5"),
        ("low: 1,", "low: 4,", "low 4 .*high 3"),
        ("low: 1,", "low: one,", "svc, constant N: low is 'one'"),
        ("low: 1,", "low: 1e-3,", "1.0e-3.*1e-3"),
        ("low: 1,", "low: .nan,", "low is nan"),
        ("low: 1,", "", "svc, constant N: low"),
        ("low: 0.1", "low: 0.0", r"low 0.0 .*high 10.0 .*log: true"),
        ("log: true", "log: maybe", "log is 'maybe'"),
        ("default: true}", "default: 1}", r"default 1 .*\[True, False, None, 'text'\]"),
        ("null, text]", "true]", "two different"),
        ("null, text]", "[1, 2]]", "list"),
        ("says: three", "say: three", "key say.*default, high, log, low, says"),
        ("recipes:", "recipe:", "key recipe.*recipes"),
        ("recipes:", "recipes: {}\nx:", "key x"),
    ],
)
def test_each_fault_is_one_line_that_says_where(tmp_path, old, new, fault):
    assert old in GOOD
    with pytest.raises(ProposerError, match=fault) as error:
        load(tmp_path, GOOD.replace(old, new))
    assert "\n" not in str(error.value)
    assert "recipes.yaml: " in str(error.value)


@pytest.mark.parametrize(
    ("text", "program", "fault"),
    [
        ("recipes: [", PROGRAM, "YAML"),
        ("- a", PROGRAM, "list"),
        ("recipes: {}", PROGRAM, "recipes"),
        (GOOD, "C = 1.0\nN = = 2\n", r"svc.py .*line 2"),
        (GOOD, "C = 2.0\nN = 2\nMODE = True\n", "constant C: default 1.0 .*2.0"),
        (GOOD, "C = 1.0\nN = 2\nMODE = 1\n", "constant MODE: default True .*1"),
        (GOOD, b"\xff", "svc.py .*UTF-8"),
    ],
)
def test_broken_files_are_refused_in_one_line(tmp_path, text, program, fault):
    with pytest.raises(ProposerError, match=fault) as error:
        load(tmp_path, text, program)
    assert "\n" not in str(error.value)


numbers = st.one_of(
    st.tuples(st.integers(-50, 50), st.integers(1, 60)).map(lambda p: NumberConstant(p[0], p[0] + p[1], p[0])),
    st.tuples(st.floats(1e-6, 1e3), st.floats(1.01, 1e6)).map(
        lambda p: NumberConstant(p[0], p[0] * p[1], p[0], log=True)
    ),
    st.tuples(st.floats(-1e3, 1e3), st.floats(0.01, 1e3)).map(lambda p: NumberConstant(p[0], p[0] + p[1], p[0])),
)


@given(numbers, st.integers(0, 1000), st.floats(0.01, 3))
def test_samples_and_nudges_stay_inside_and_keep_their_kind(number, seed, width):
    rng = Random(seed)
    value = number.sample(rng)
    for _ in range(5):
        assert number.holds(value)
        value = number.nudge(value, rng, width)
    assert number.holds(value)


@given(st.integers(0, 1000))
def test_a_nudged_whole_number_or_choice_always_moves(seed):
    rng = Random(seed)
    assert NumberConstant(1, 2, 1).nudge(1, rng, 0.001) == 2
    assert type(ChoiceConstant((1, True, "a"), 1).nudge(1, rng, 1.0)) is not int


@pytest.mark.parametrize(
    "task", sorted(path.parts[-3] for path in bundled_folder("tasks").glob("*/recipes/recipes.yaml"))
)
def test_the_recipes_of_every_shipped_task_are_sound(task):
    space = recipe_space.load_space(bundled_folder("tasks") / task / "recipes")
    assert space is not None
    rng = Random(0)
    for recipe in space.recipes.values():
        for constants in [recipe.default(), *(recipe.sample(rng) for _ in range(20))]:
            compile(space.program(constants), recipe.name, "exec")
            assert space.holds(constants)
