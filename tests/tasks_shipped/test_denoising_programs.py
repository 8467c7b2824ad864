"""The programs of the denoising task, run for real on small simulated data sets."""

import csv
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import cast

import numpy as np
import pytest
from scipy import sparse

from sia_runner.proposers import recipe_space
from sia_runner.proposers.recipe_space import ChoiceConstant, Constant, ConstantValue, Recipe, Space, Variant
from sia_runner.system import bundled_folder
from sia_runner.tasks.worker import load_module
from tests.tasks_shipped.together import run_together

TASK = bundled_folder("tasks") / "denoising"
load_module(TASK / "verifier.py")  # puts its folder on the path
simulate, dealt, reached = (
    import_module("simulate"),
    import_module("molecules").dealt,
    import_module("open_problems").reached,
)
SPACE = cast(Space, recipe_space.load_space(TASK / "recipes"))
HAS_MAGIC = find_spec("magic") is not None
OFFLINE = [recipe for recipe in SPACE.recipes.values() if recipe.name != "magic_package"]
needs_magic = pytest.mark.skipif(not HAS_MAGIC, reason="NOT CHECKED: MAGIC needs pip install 'sia-runner[denoising]'")


@pytest.fixture(scope="module")
def view(tmp_path_factory):
    """Three data sets; two rows share the first. (folder, pairs by name)."""
    folder = tmp_path_factory.mktemp("view")
    (folder / "counts").mkdir()
    pairs = {}
    for number in range(3):
        rng = np.random.default_rng([7, number])
        design = simulate.Design(cells=150, genes=500, types=4, depth=1300, dispersion=0.1)
        pairs[str(number)] = pair = dealt(simulate.simulated(design, rng), np.random.RandomState(number))
        sparse.save_npz(folder / "counts" / f"{number}.npz", pair.train)
    with (folder / "questions.csv").open("w", encoding="utf-8", newline="") as stream:
        rows = [("0", "counts/0.npz", "1/2"), ("1", "counts/1.npz", "1/1"), ("2", "counts/2.npz", "1/1")]
        csv.writer(stream).writerows([("id", "counts", "part"), *rows, ("3", "counts/0.npz", "2/2")])
    return folder, pairs


def run(programs, view, folder: Path) -> list[float]:
    """Mean mse_norm of programs; exactly one matrix that passes the guard for each of counts."""
    homes = run_together(programs, view[0], folder)
    return [score(home / "denoised", view[1]) for home in homes]


def score(folder: Path, pairs) -> float:
    assert sorted(path.stem for path in folder.iterdir()) == sorted(pairs)
    figures = []
    for name, pair in pairs.items():
        train, denoised = pair.train.toarray(), np.load(folder / f"{name}.npy")
        assert denoised.shape == train.shape
        assert np.isfinite(denoised).all() and denoised.min() >= 0 and denoised.max() <= train.sum()
        figures.append(reached(train, pair.held_out.toarray(), denoised).mse_norm)
    return float(np.mean(figures))


def corner(recipe: Recipe, highest: bool) -> Variant:
    def end(constant: Constant) -> ConstantValue:
        if isinstance(constant, ChoiceConstant):
            return constant.choices[-1 if highest else 0]
        return constant.tidy(constant.high if highest else constant.low)

    return Variant(recipe.name, {name: end(constant) for name, constant in recipe.constants.items()})


def test_the_start_denoises_nothing(view, tmp_path):
    assert run([(TASK / "reference" / "target_agent.py").read_text(encoding="utf-8")], view, tmp_path) == [0.0]


@pytest.mark.parametrize("highest", [False, True], ids=["lowest", "highest"])
def test_no_value_at_a_bound_breaks_a_recipe(highest, view, tmp_path):
    run([SPACE.program(corner(recipe, highest)) for recipe in OFFLINE], view, tmp_path)


def test_to_aim_at_the_expected_logarithm_beats_the_mean_of_neighbours_and_low_rank(view, tmp_path):
    names = ("expected_log", "neighbours", "low_rank")
    aimed, near, low = run([SPACE.program(SPACE.recipes[name].default()) for name in names], view, tmp_path)
    assert aimed > max(near, low, 0) + 0.1


def test_a_recipe_gives_the_same_answers_twice(view, tmp_path):
    program = SPACE.program(SPACE.recipes["expected_log"].default())
    run([program, program], view, tmp_path)
    assert (tmp_path / "0/denoised/1.npy").read_bytes() == (tmp_path / "1/denoised/1.npy").read_bytes()


@needs_magic
@pytest.mark.slow  # MAGIC imports matplotlib, which looks for fonts first: seconds on a quiet machine
def test_magic_beats_no_denoising_in_both_orders_of_its_steps(view, tmp_path):
    default = SPACE.recipes["magic_package"].default()
    other = Variant(default.recipe, {**default.constants, "REVERSED": False})
    assert min(run([SPACE.program(default), SPACE.program(other)], view, tmp_path)) > 0.02
