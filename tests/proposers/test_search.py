"""The two halves of a search step: which variants are looked at, and which of them get all the data."""

import math
from itertools import islice
from random import Random

import pytest

from sia_runner.proposers import recipe_space
from sia_runner.proposers.protocol import Brief
from sia_runner.proposers.recipe_memory import SearchMemory
from sia_runner.proposers.recipe_space import Space, Variant
from sia_runner.proposers.recipes import SuccessiveHalving, crossovers, neighbours, variants_for_breadth
from sia_runner.records import Lever, PastGeneration, Trial
from tests.proposers.synthetic import ENTRY, write_task


@pytest.fixture(scope="module")
def space(tmp_path_factory) -> Space:
    loaded = recipe_space.load_space(write_task(tmp_path_factory.mktemp("search") / "task").task_folder / "recipes")
    assert loaded is not None
    return loaded


class Scripted:
    """Answers with given values by recipe."""

    def __init__(self, **values: float) -> None:
        self.values, self.full = values, []

    def try_out(self, batch, *, share, questions=None):
        names = [files[ENTRY].split('"')[1] for files in batch]
        self.full += names if share == 1.0 else []
        return [Trial(self.values[name], 500, 1.0) for name in names]


def decoys(*depths: int) -> list[Variant]:
    return [Variant("decoy", {"DEPTH": depth}) for depth in depths]


def promoted(space: Space, history=(), incumbent=None, keep=0.5, pool=(), **values: float) -> list[str]:
    """Recipes that got all the data, of four decoys, a rich and a plain (or of `pool`)."""
    bench, memory = Scripted(**values), SearchMemory(Brief(9, 9, None, history, incumbent, True), space)
    pool = list(pool) or [*decoys(1, 2, 3, 4), space.recipes["rich"].default(), space.recipes["plain"].default()]
    SuccessiveHalving(space, ENTRY, [0.25, 1.0], keep, None, bench).climb(pool, len(pool), memory)
    return bench.full


def test_a_place_is_kept_for_a_recipe_that_never_had_all_the_data(space):
    assert promoted(space, decoy=0.8, rich=0.75, plain=0.7) == ["decoy", "decoy", "rich"]


def test_no_place_is_kept_for_a_recipe_that_is_clearly_worse(space):
    assert promoted(space, decoy=0.8, rich=0.3, plain=0.2) == ["decoy"] * 3


def rejected(n: int) -> PastGeneration:
    return PastGeneration(n, Lever.HARNESS, "t", "rejected", "worse", None, {})


def test_a_single_place_goes_to_another_recipe_every_other_time_after_rejections(space):
    notes = {"recipe": "decoy", "constants": {"DEPTH": 9}}
    best = PastGeneration(2, Lever.HARNESS, "t", "accepted", "better", None, notes)
    scores = {"decoy": 0.8, "rich": 0.75, "plain": 0.3}
    assert promoted(space, (best,), 2, keep=0.1, **scores) == ["decoy"]
    assert promoted(space, (best, rejected(3)), 2, keep=0.1, **scores) == ["rich"]
    assert promoted(space, (best, rejected(3), rejected(4)), 2, keep=0.1, **scores) == ["decoy"]


def test_what_waited_since_an_earlier_generation_moves_up_when_it_is_the_best(space):
    trial = {"recipe": "rich", "constants": dict(space.recipes["rich"].default().constants), "fraction": 0.25}
    trial |= {"value": 0.9, "n": 500, "seconds": 1.0, "failure": ""}
    earlier = PastGeneration(2, Lever.HARNESS, "t", "rejected", "worse", None, {"trials": [trial]})
    assert promoted(space, (earlier,), keep=0.25, pool=decoys(1, 2, 3, 4), decoy=0.8, rich=0.95) == ["rich"]


def test_breadth_is_every_default_and_then_new_samples(space):
    memory = SearchMemory(Brief(2, 9, None, (), None, True), space)
    found = variants_for_breadth(space, memory, Random(0), 8)
    assert found[:3] == space.defaults()
    assert len({variant.key for variant in found}) == 8
    assert len(variants_for_breadth(space, memory, Random(0), 1)) == 3, (
        "no recipe is left out, however few trials are allowed"
    )


def test_steps_grow_with_every_rejection_and_move_more_constants(space):
    recipe = space.recipes["rich"]
    anchor = Variant("rich", {"C": 1.0, "SIZE": 4, "MODE": "fast"})

    def reach(rejections: int) -> tuple[float, float]:
        """(mean step of log C where C moved, mean number of constants moved)"""
        found = list(islice(neighbours(recipe, anchor, Random(0), rejections), 300))
        steps = [abs(math.log10(float(str(v.constants["C"])))) for v in found if v.constants["C"] != 1.0]
        moved = [sum(v.constants[n] != anchor.constants[n] for n in anchor.constants) for v in found]
        return sum(steps) / len(steps), sum(moved) / len(moved)

    near, far = reach(0), reach(2)
    assert far[0] > 1.5 * near[0] and far[1] > near[1]
    assert near[1] <= 2


def test_a_recipe_without_constants_has_no_neighbours(space):
    from dataclasses import replace

    bare = replace(space.recipes["plain"], constants={})
    assert list(neighbours(bare, bare.default(), Random(0), 0)) == []


def test_a_merge_of_two_variants_has_constants_of_either():
    one, other = (Variant("rich", {"A": value, "B": value, "C": value}) for value in (1, 2))
    drawn = {tuple(variant.constants.values()) for variant in islice(crossovers(one, other, Random(0)), 200)}
    assert drawn == {(a, b, c) for a in (1, 2) for b in (1, 2) for c in (1, 2)}


def test_parent_and_partner_are_read_from_the_history(space):
    def past(n: int, recipe: str) -> PastGeneration:
        notes = {"recipe": recipe, "constants": dict(space.recipes[recipe].default().constants)}
        return PastGeneration(n, Lever.HARNESS, "t", "rejected", "", None, notes)

    history = [past(1, "plain"), past(2, "rich"), past(3, "decoy")]
    memory = SearchMemory(Brief(4, 9, None, history, 1, True, parent=2, partner=3), space)
    assert (memory.incumbent.recipe, memory.parent.recipe, memory.partner.recipe) == ("plain", "rich", "decoy")
