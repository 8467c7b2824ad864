"""Searches variants: an Optuna study and neighbours choose them, successive halving measures them."""

import warnings
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice, pairwise
from random import Random
from typing import TYPE_CHECKING, Any

from sia_runner.proposers.protocol import Workbench
from sia_runner.proposers.recipe_memory import MeasuredVariant, SearchMemory, difference_error
from sia_runner.proposers.recipe_space import ChoiceConstant, Constant, ConstantValue, Recipe, Space, Variant

if TYPE_CHECKING:
    import optuna

_STARTUP = 5  # finished trials below which TPE draws evenly


class VariantStudy:
    """An Optuna study of all trials.

    Complete trials ran with the last share of train; those that stopped at an earlier rung count as pruned there.
    """

    def __init__(self, space: Space, memory: SearchMemory, rungs: Sequence[float], seed: int) -> None:
        import optuna  # takes half a second, and only a search in depth needs it

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._space = space
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            sampler = optuna.samplers.TPESampler(
                seed=seed,
                n_startup_trials=_STARTUP,
                multivariate=True,
                group=True,  # constants belong to their recipe
                constant_liar=True,  # pending suggestions count as bad, so that a batch spreads out
            )
            self._study = optuna.create_study(direction="maximize", sampler=sampler)
        self._study.add_trials(self._finished(memory, rungs))

    def ask(self) -> Variant:
        """Return the sampler's next suggestion, which may have been tried before."""
        trial = self._study.ask()
        name = trial.suggest_categorical("recipe", list(self._space.recipes))
        constants = self._space.recipes[name].constants
        return Variant(name, {key: _suggest(trial, f"{name}.{key}", constants[key]) for key in constants})

    def _finished(self, memory: SearchMemory, rungs: Sequence[float]) -> list["optuna.trial.FrozenTrial"]:
        complete = memory.merits(rungs[-1])
        finished = [self._trial(memory.variant(key), {}, merit) for key, merit in complete.items()]
        for key in sorted(memory.tried_keys() - complete.keys()):
            steps = {i: merit for i, rung in enumerate(rungs) if (merit := memory.merits(rung).get(key)) is not None}
            finished.append(self._trial(memory.variant(key), steps, None))
        return finished

    def _trial(self, variant: Variant, steps: dict[int, float], merit: float | None) -> "optuna.trial.FrozenTrial":
        import optuna

        params: dict[str, Any] = {"recipe": variant.recipe}
        names = optuna.distributions.CategoricalDistribution(list(self._space.recipes))
        distributions: dict[str, Any] = {"recipe": names}
        for key, constant in self._space.recipes[variant.recipe].constants.items():
            params[f"{variant.recipe}.{key}"] = variant.constants[key]
            distributions[f"{variant.recipe}.{key}"] = _distribution(constant)
        state = optuna.trial.TrialState.PRUNED if merit is None else optuna.trial.TrialState.COMPLETE
        return optuna.trial.create_trial(
            state=state, value=merit, params=params, distributions=distributions, intermediate_values=steps
        )


def _suggest(trial: "optuna.Trial", name: str, constant: Constant) -> ConstantValue:
    if isinstance(constant, ChoiceConstant):
        return trial.suggest_categorical(name, constant.choices)
    if constant.is_integer:
        return trial.suggest_int(name, int(constant.low), int(constant.high), log=constant.log)
    return constant.tidy(trial.suggest_float(name, float(constant.low), float(constant.high), log=constant.log))


def _distribution(constant: Constant) -> "optuna.distributions.BaseDistribution":
    import optuna

    if isinstance(constant, ChoiceConstant):
        return optuna.distributions.CategoricalDistribution(constant.choices)
    if constant.is_integer:
        return optuna.distributions.IntDistribution(int(constant.low), int(constant.high), log=constant.log)
    return optuna.distributions.FloatDistribution(float(constant.low), float(constant.high), log=constant.log)


_STEP = 0.15  # of a constant's range; a rejected generation adds the same again
_DRAWS = 40  # tries for each new variant before the space around counts as exhausted
_STUDY_DRAWS = 6  # the same of the study, which takes milliseconds each
_LISTED = 4096  # variants of one recipe that are enumerated when draws find nothing new


def variants_for_breadth(space: Space, memory: SearchMemory, rng: Random, count: int) -> list[Variant]:
    """Return every recipe at its defaults, filled up to `count` with samples of the recipes in turn."""
    recipes = list(space.recipes.values())
    samples = (recipes[i % len(recipes)].sample(rng) for i in range(_DRAWS * count))
    defaults = space.defaults()
    return _untried([*defaults, *samples], memory.tried_keys(), max(count, len(defaults)))


def variants_for_depth(
    space: Space, memory: SearchMemory, study: VariantStudy, anchor: Variant | None, rng: Random, count: int
) -> list[Variant]:
    """Return variants around `anchor` (half) and from the study (half).

    Where these yield nothing new, even samples follow, then the unused variants of a small space.
    """
    recipes = list(space.recipes.values())
    around = neighbours(space.recipes[anchor.recipe], anchor, rng, memory.rejections) if anchor else iter(())
    sources = [
        (islice(around, _DRAWS * count), (count + 1) // 2),
        ((study.ask() for _ in range(_STUDY_DRAWS * count)), count),
        ((rng.choice(recipes).sample(rng) for _ in range(_DRAWS * count)), count),
        ((variant for recipe in recipes for variant in islice(recipe.variants(), _LISTED)), count),
    ]
    variants: list[Variant] = []
    for source, up_to in sources:
        variants += _untried(source, memory.tried_keys() | {variant.key for variant in variants}, up_to - len(variants))
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


def _untried(candidates: Iterable[Variant], tried_keys: set[str], count: int) -> list[Variant]:
    """Return the first `count` distinct candidates that are not in `tried_keys`."""
    variants: dict[str, Variant] = {}
    if count > 0:
        for variant in candidates:
            if variant.key not in tried_keys:
                variants.setdefault(variant.key, variant)
            if len(variants) >= count:
                break
    return list(variants.values())


_CLEARLY = 6.0  # standard errors; many, because little training data flatters simple recipes


class SuccessiveHalving:
    """Successive halving: variants are measured with growing shares of the training data (rungs)."""

    def __init__(
        self, space: Space, entry: str, rungs: Sequence[float], keep: float, questions: int | None, bench: Workbench
    ) -> None:
        self._space, self._entry, self._bench = space, entry, bench
        self._rungs, self._keep, self._questions = rungs, keep, questions

    def climb(self, pool: Sequence[Variant], places: int, memory: SearchMemory) -> list[MeasuredVariant]:
        """Measure `pool` on the first rung, then the best `keep` share of `places` on each next rung, one batch each.

        `pool` holds variants that were never tried. Returns the new trials, which are added to `memory` too.
        """
        trials = self._measure(pool, self._rungs[0], memory)
        for below, rung in pairwise(self._rungs):
            places = max(1, int(self._keep * places + 1e-9))
            trials += self._measure(self._promoted(memory, below, rung, places), rung, memory)
        return trials

    def _promoted(self, memory: SearchMemory, below: float, rung: float, places: int) -> list[Variant]:
        """Return the best variants below a rung; one place goes to another recipe unless it is clearly worse.

        Other recipes are those not yet measured at this rung; after a rejection, those other than the incumbent's.
        """
        waiting = [m for m in memory.unproposed(below) if (m.variant.key, rung) not in memory.trials]
        chosen = waiting[:places]
        settled = {m.variant.recipe for m in chosen[:1]}
        if memory.rejections and memory.incumbent:
            settled.add(memory.incumbent.recipe)
        else:
            settled |= {m.variant.recipe for m in memory.trials_at(rung)}
        others = [m for m in waiting if m.variant.recipe not in settled]
        spare = len(chosen) > 1 or memory.rejections % 2 == 1  # a single place is for another recipe every other time
        if spare and others:
            other, best = others[0], chosen[0]
            doubt = _CLEARLY * difference_error(other.trial.value, best.trial.value, best.trial.n)
            if not memory.merit(best) - memory.merit(other) > doubt > 0:
                chosen[-1] = other
        return [m.variant for m in chosen]

    def _measure(self, pool: Sequence[Variant], rung: float, memory: SearchMemory) -> list[MeasuredVariant]:
        if not pool:
            return []
        batch = [{self._entry: self._space.program(variant)} for variant in pool]
        results = self._bench.try_out(batch, share=rung, questions=self._questions)
        measured = [MeasuredVariant(variant, rung, trial) for variant, trial in zip(pool, results, strict=True)]
        memory.add(measured)
        return measured
