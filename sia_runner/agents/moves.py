"""Where to look next: fresh samples for breadth; neighbours of an anchor and samples of a fitted model for depth."""

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
    """Every recipe at its defaults, filled up to `count` with samples of the recipes in turn."""
    recipes = list(space.recipes.values())
    samples = (recipes[i % len(recipes)].sample(rng) for i in range(_DRAWS * count))
    defaults = space.defaults()
    return _new([*defaults, *samples], memory.seen(), max(count, len(defaults)))


def depth(space: Space, memory: Memory, study: Study, anchor: Variant | None, rng: Random, count: int) -> list[Variant]:
    """Half around `anchor`, half from the study.

    Where these find nothing new, even samples make up for it, then what is left of a small space.
    """
    recipes = list(space.recipes.values())
    around = neighbours(space.recipes[anchor.recipe], anchor, rng, memory.rejections) if anchor else iter(())
    sources = [
        (islice(around, _DRAWS * count), (count + 1) // 2),
        ((study.ask() for _ in range(_ASKS * count)), count),
        ((rng.choice(recipes).sample(rng) for _ in range(_DRAWS * count)), count),
        (space.listed(_LISTED), count),
    ]
    found: list[Variant] = []
    for source, up_to in sources:
        found += _new(source, memory.seen() | {variant.key for variant in found}, up_to - len(found))
    return found


def neighbours(recipe: Recipe, anchor: Variant, rng: Random, rejections: int) -> Iterator[Variant]:
    """Endless: one or two constants moved; longer steps of more constants after rejections."""
    names = list(recipe.constants)
    while names:
        moved = min(len(names), rng.randint(1, 2 + rejections))
        changed = {
            name: recipe.constants[name].nudge(anchor.constants[name], rng, _STEP * (1 + rejections))
            for name in sorted(rng.sample(names, moved))
        }
        yield Variant(recipe.name, {**anchor.constants, **changed})


def _new(candidates: Iterable[Variant], seen: set[str], count: int) -> list[Variant]:
    """The first `count` candidates that are neither in `seen` nor twice."""
    found: dict[str, Variant] = {}
    if count > 0:
        for variant in candidates:
            if variant.key not in seen:
                found.setdefault(variant.key, variant)
            if len(found) >= count:
                break
    return list(found.values())
