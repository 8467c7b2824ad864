"""Chooses the next variants: samples of all recipes for breadth, neighbours and a fitted model for depth."""

from collections.abc import Iterable, Iterator
from itertools import islice
from random import Random

from sia_runner.agents.memory import Memory
from sia_runner.agents.space import Recipe, Space, Variant
from sia_runner.agents.study import Study

_STEP = 0.15  # of a constant's range; a rejected generation adds the same again
_DRAWS = 40  # tries for each new variant before the space around counts as exhausted
_ASKS = 6  # the same of the study, which takes milliseconds each
_LISTED = 4096  # variants of one recipe that are enumerated when draws find nothing new


def breadth(space: Space, memory: Memory, rng: Random, count: int) -> list[Variant]:
    """Return every recipe at its defaults, filled up to `count` with samples of the recipes in turn."""
    recipes = list(space.recipes.values())
    samples = (recipes[i % len(recipes)].sample(rng) for i in range(_DRAWS * count))
    defaults = space.defaults()
    return _new([*defaults, *samples], memory.tried_keys(), max(count, len(defaults)))


def depth(space: Space, memory: Memory, study: Study, anchor: Variant | None, rng: Random, count: int) -> list[Variant]:
    """Return variants around `anchor` (half) and from the study (half).

    Where these yield nothing new, even samples follow, then the unused variants of a small space.
    """
    recipes = list(space.recipes.values())
    around = neighbours(space.recipes[anchor.recipe], anchor, rng, memory.rejections) if anchor else iter(())
    sources = [
        (islice(around, _DRAWS * count), (count + 1) // 2),
        ((study.ask() for _ in range(_ASKS * count)), count),
        ((rng.choice(recipes).sample(rng) for _ in range(_DRAWS * count)), count),
        (space.listed(_LISTED), count),
    ]
    variants: list[Variant] = []
    for source, up_to in sources:
        variants += _new(source, memory.tried_keys() | {variant.key for variant in variants}, up_to - len(variants))
    return variants


def neighbours(recipe: Recipe, anchor: Variant, rng: Random, rejections: int) -> Iterator[Variant]:
    """Yield endless variants with one or two constants moved; more constants and longer steps after rejections."""
    names = list(recipe.constants)
    while names:
        moved = min(len(names), rng.randint(1, 2 + rejections))
        changed = {
            name: recipe.constants[name].nudge(anchor.constants[name], rng, _STEP * (1 + rejections))
            for name in sorted(rng.sample(names, moved))
        }
        yield Variant(recipe.name, {**anchor.constants, **changed})


def _new(candidates: Iterable[Variant], tried_keys: set[str], count: int) -> list[Variant]:
    """Return the first `count` distinct candidates that are not in `tried_keys`."""
    variants: dict[str, Variant] = {}
    if count > 0:
        for variant in candidates:
            if variant.key not in tried_keys:
                variants.setdefault(variant.key, variant)
            if len(variants) >= count:
                break
    return list(variants.values())
