"""Defines the search space of a task: recipes, their tunable constants, and variants."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice, product
from random import Random

from sia_runner.agents.constants import Constant, Value
from sia_runner.agents.render import render


@dataclass(frozen=True, slots=True)
class Variant:
    """A point of the space: a recipe and a value for each of its constants."""

    recipe: str
    constants: Mapping[str, Value]

    @property
    def key(self) -> str:
        """The variant as canonical JSON, to compare and store it."""
        return json.dumps([self.recipe, dict(self.constants)], sort_keys=True)


@dataclass(frozen=True, slots=True)
class Recipe:
    """A complete program with tunable constants. `order` is its position in the file: simple recipes come first."""

    name: str
    order: int
    title: str
    idea: str
    constants: Mapping[str, Constant]
    program: str

    def default(self) -> Variant:
        """Return the variant with all constants at their defaults."""
        return Variant(self.name, {name: constant.default for name, constant in self.constants.items()})

    def sample(self, rng: Random) -> Variant:
        """Draw a variant evenly."""
        return Variant(self.name, {name: constant.sample(rng) for name, constant in self.constants.items()})

    def variants(self) -> Iterator[Variant]:
        """Yield all variants; none when a constant's values cannot be listed."""
        values = [constant.values() for constant in self.constants.values()]
        listed = [value for value in values if value is not None]
        if len(listed) == len(values):
            for combination in product(*listed):
                yield Variant(self.name, dict(zip(self.constants, combination, strict=True)))


@dataclass(frozen=True, slots=True)
class Space:
    """The recipes of a task, by name."""

    recipes: Mapping[str, Recipe]

    def defaults(self) -> list[Variant]:
        """Return every recipe at its defaults."""
        return [recipe.default() for recipe in self.recipes.values()]

    def listed(self, at_most: int) -> Iterator[Variant]:
        """Yield the variants of every recipe whose variants can be listed, at most `at_most` of each."""
        for recipe in self.recipes.values():
            yield from islice(recipe.variants(), at_most)

    def program(self, variant: Variant) -> str:
        """Return the program of a variant."""
        return render(self.recipes[variant.recipe].program, variant.constants)

    def holds(self, variant: Variant) -> bool:
        """Return whether a variant belongs to the space as declared now: the task may have changed since."""
        recipe = self.recipes.get(variant.recipe)
        if recipe is None or recipe.constants.keys() != variant.constants.keys():
            return False
        return all(constant.holds(variant.constants[name]) for name, constant in recipe.constants.items())
