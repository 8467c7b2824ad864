"""A world with known answers for benchmarks/search.py: what each idea does to a harness, and a proposer that has ideas.

A harness is the set of ideas that went into it, and an approach. Questions come in groups; an idea changes the ability
on one group, for better or worse, and may cost another group something. A question is answered rightly if the ability
on its group exceeds its difficulty, and then the noise turns some answers over.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from random import Random

from sia_runner.records import Outcome, OutcomeKind

GROUPS, IDEAS = 4, 8  # groups of questions; ideas for each group
DEV, VAL = 60, 90  # questions
GOOD = 0.35  # share of the ideas that help
START = 0.3  # ability of the first harness
MERGE_SLIP = 0.2  # how often a merge takes an idea that it should not, or leaves one that it should take
REWRITE = 0.12  # how often a proposer takes the other approach, where there is one


@dataclass(frozen=True, slots=True)
class Landscape:
    """What makes the search hard."""

    name: str
    noise: float = 0.03  # share of answers that are turned over in a run, at random
    side_effects: float = 0.2  # share of ideas that cost another group something
    steps: int = 1  # ideas that only help together: the first ones change nothing
    trap: bool = False  # the approach at hand has a low ceiling; the other one is worse at first


LANDSCAPES = (
    Landscape("plain"),
    Landscape("noisy", noise=0.12),
    Landscape("deceptive", trap=True),
    Landscape("plateaued", steps=2),
    Landscape("trade-offs", side_effects=0.9),
)


@dataclass(frozen=True, slots=True)
class Harness:
    """A candidate as the world sees it. An idea is (group, number)."""

    ideas: frozenset[tuple[int, int]] = frozenset()
    rewritten: bool = False  # it has the other approach


@dataclass(frozen=True, slots=True)
class _Idea:
    gain: float
    cost_group: int
    cost: float


class World:
    """One landscape with the questions and ideas of a seed."""

    def __init__(self, landscape: Landscape, seed: int) -> None:
        rng = Random(f"{landscape.name}:{seed}")
        self.landscape, self.seed = landscape, seed
        self._ideas = {(group, k): self._draw_idea(rng, group) for group in range(GROUPS) for k in range(IDEAS)}
        self._start = [START + rng.uniform(-0.15, 0.15) for _ in range(GROUPS)]
        self.dev = [(f"d{k}", k % GROUPS, rng.random()) for k in range(DEV)]
        self._val = [(f"v{k}", k % GROUPS, rng.random()) for k in range(VAL)]

    def _draw_idea(self, rng: Random, group: int) -> _Idea:
        gain = rng.uniform(0.1, 0.3) if rng.random() < GOOD else rng.uniform(-0.2, 0.02)
        cost = rng.uniform(0.05, 0.2) if rng.random() < self.landscape.side_effects else 0.0
        return _Idea(gain, (group + rng.randrange(1, GROUPS)) % GROUPS, cost)

    def abilities(self, harness: Harness) -> list[float]:
        """Return the ability on each group, in [0, 1]."""
        steps, abilities = self.landscape.steps, list(self._start)
        for group, number in sorted(harness.ideas):
            idea, first = self._ideas[group, number], number - number % steps
            if all((group, k) in harness.ideas for k in range(first, min(first + steps, IDEAS))):
                abilities[group] += idea.gain
                abilities[idea.cost_group] -= idea.cost
        if not self.landscape.trap:
            return [min(0.95, max(0.0, ability)) for ability in abilities]
        ceiling, factor = (0.95, 0.6) if harness.rewritten else (0.5, 1.0)
        return [min(ceiling, max(0.0, factor * ability)) for ability in abilities]

    def true_score(self, harness: Harness) -> float:
        """Return the expected share of right answers to questions that nobody has seen."""
        noise, abilities = self.landscape.noise, self.abilities(harness)
        return sum(ability * (1 - noise) + (1 - ability) * noise for ability in abilities) / GROUPS

    def answer(self, harness: Harness, run: str) -> tuple[list[Outcome], list[Outcome]]:
        """Return the outcomes on dev and val of one run; its name seeds the noise."""
        rng, abilities, noise = Random(f"{self.seed}:{run}"), self.abilities(harness), self.landscape.noise

        def outcome(unit: str, group: int, difficulty: float) -> Outcome:
            right = (abilities[group] > difficulty) != (rng.random() < noise)
            return Outcome(unit, OutcomeKind.CORRECT if right else OutcomeKind.WRONG, float(right))

        return [outcome(*question) for question in self.dev], [outcome(*question) for question in self._val]


def propose(
    world: World, parent: Harness, dev: Mapping[str, float], rng: Random, avoid: Collection[str] = ()
) -> Harness:
    """Return the parent with one more idea, for a group that fails often on dev; or with the other approach.

    Changes whose title is in `avoid` are not made while there are others.
    """
    if world.landscape.trap and rng.random() < REWRITE and "rewrite" not in avoid:
        return replace(parent, rewritten=not parent.rewritten)
    failures = [0.1] * GROUPS
    for unit, group, _ in world.dev:
        failures[group] += 1 - dev[unit]
    ideas = {group: list(_next_ideas(world, parent, group)) for group in range(GROUPS)}
    fresh = {group: [idea for idea in of if _title(idea) not in avoid] for group, of in ideas.items()}
    options = fresh if any(fresh.values()) else ideas
    weights = [failures[group] if options[group] else 0.0 for group in range(GROUPS)]
    group = rng.choices(range(GROUPS), weights)[0] if any(weights) else 0
    return replace(parent, ideas=parent.ideas | {rng.choice(options[group])}) if options[group] else parent


def title_of(harness: Harness, parent: Harness) -> str:
    """Return the title that a proposer gives its change."""
    if harness.rewritten != parent.rewritten:
        return "rewrite"
    changed = sorted(harness.ideas ^ parent.ideas)
    return _title(changed[0]) if len(changed) == 1 else "merge" if changed else "nothing"


def _title(idea: tuple[int, int]) -> str:
    return f"idea {idea[1]} for group {idea[0]}"


def _next_ideas(world: World, parent: Harness, group: int) -> Sequence[tuple[int, int]]:
    """Return the ideas that can be added: of several that only help together, the next one."""
    steps = world.landscape.steps
    waiting = [(group, k) for k in range(IDEAS) if (group, k) not in parent.ideas]
    return [(group, k) for _, k in waiting if k % steps == 0 or (group, k - 1) in parent.ideas]


def merge(
    world: World, harnesses: tuple[Harness, Harness], devs: tuple[Mapping[str, float], Mapping[str, float]], rng: Random
) -> Harness:
    """Return the parent with the partner's ideas for the groups on which the partner does better on dev, by and large.

    Both arguments have the parent first.
    """
    (parent, partner), gained = harnesses, [0.0] * GROUPS
    for unit, group, _ in world.dev:
        gained[group] += devs[1][unit] - devs[0][unit]
    ideas = {
        idea for idea in sorted(parent.ideas ^ partner.ideas) if (gained[idea[0]] > 0) != (rng.random() < MERGE_SLIP)
    }
    return replace(parent, ideas=(parent.ideas - ideas) | (partner.ideas & ideas))
