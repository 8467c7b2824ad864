"""The search space of a task: recipes, their tunable constants, and the points of the space."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice, product
from random import Random

from sia_runner.agents.constants import Constant, Value
from sia_runner.agents.render import render


@dataclass(frozen=True, slots=True)
class Variant:
    """One point of the space: a recipe and a value for each of its constants."""

    recipe: str
    constants: Mapping[str, Value]

    @property
    def key(self) -> str:
        return json.dumps([self.recipe, dict(self.constants)], sort_keys=True)


@dataclass(frozen=True, slots=True)
class Recipe:
    """A complete program with tunable constants. `order` is its place in the file: simple recipes come first."""

    name: str
    order: int
    title: str
    idea: str
    constants: Mapping[str, Constant]
    program: str

    def default(self) -> Variant:
        return Variant(self.name, {name: constant.default for name, constant in self.constants.items()})

    def sample(self, rng: Random) -> Variant:
        return Variant(self.name, {name: constant.sample(rng) for name, constant in self.constants.items()})

    def variants(self) -> Iterator[Variant]:
        """All variants; none when a constant's values cannot be listed."""
        values = [constant.values() for constant in self.constants.values()]
        listed = [value for value in values if value is not None]
        if len(listed) == len(values):
            for combination in product(*listed):
                yield Variant(self.name, dict(zip(self.constants, combination, strict=True)))


@dataclass(frozen=True, slots=True)
class Space:
    recipes: Mapping[str, Recipe]

    def defaults(self) -> list[Variant]:
        return [recipe.default() for recipe in self.recipes.values()]

    def listed(self, at_most: int) -> Iterator[Variant]:
        """The variants of every recipe whose variants can be listed, at most so many of each."""
        for recipe in self.recipes.values():
            yield from islice(recipe.variants(), at_most)

    def program(self, variant: Variant) -> str:
        return render(self.recipes[variant.recipe].program, variant.constants)

    def holds(self, variant: Variant) -> bool:
        """Is this a point of the space as it is declared now? (A task may be edited between two sittings of a run.)"""
        recipe = self.recipes.get(variant.recipe)
        if recipe is None or recipe.constants.keys() != variant.constants.keys():
            return False
        return all(constant.holds(variant.constants[name]) for name, constant in recipe.constants.items())
