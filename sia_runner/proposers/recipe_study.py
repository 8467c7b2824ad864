"""Suggests variants by an Optuna study. Importing it takes half a second, and only a search in depth needs it."""

import warnings
from collections.abc import Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState

from sia_runner.proposers.recipe_memory import SearchMemory
from sia_runner.proposers.recipe_space import ChoiceConstant, Constant, ConstantValue, Space, Variant

_STARTUP = 5  # finished trials below which TPE draws evenly


class VariantStudy:
    """An Optuna study of all trials; those that stopped before the last share of train count as pruned there."""

    def __init__(self, space: Space, memory: SearchMemory, rungs: Sequence[float], seed: int) -> None:
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

    def _finished(self, memory: SearchMemory, rungs: Sequence[float]) -> list[FrozenTrial]:
        complete = memory.merits(rungs[-1])
        finished = [self._trial(memory.variant(key), {}, merit) for key, merit in complete.items()]
        for key in sorted(memory.tried_keys() - complete.keys()):
            steps = {i: merit for i, rung in enumerate(rungs) if (merit := memory.merits(rung).get(key)) is not None}
            finished.append(self._trial(memory.variant(key), steps, None))
        return finished

    def _trial(self, variant: Variant, steps: dict[int, float], merit: float | None) -> FrozenTrial:
        params: dict[str, Any] = {"recipe": variant.recipe}
        distributions: dict[str, BaseDistribution] = {"recipe": CategoricalDistribution(list(self._space.recipes))}
        for key, constant in self._space.recipes[variant.recipe].constants.items():
            params[f"{variant.recipe}.{key}"] = variant.constants[key]
            distributions[f"{variant.recipe}.{key}"] = _distribution(constant)
        state = TrialState.PRUNED if merit is None else TrialState.COMPLETE
        return optuna.trial.create_trial(
            state=state, value=merit, params=params, distributions=distributions, intermediate_values=steps
        )


def _suggest(trial: optuna.Trial, name: str, constant: Constant) -> ConstantValue:
    if isinstance(constant, ChoiceConstant):
        return trial.suggest_categorical(name, constant.choices)
    if constant.is_integer:
        return trial.suggest_int(name, int(constant.low), int(constant.high), log=constant.log)
    return constant.tidy(trial.suggest_float(name, float(constant.low), float(constant.high), log=constant.log))


def _distribution(constant: Constant) -> BaseDistribution:
    if isinstance(constant, ChoiceConstant):
        return CategoricalDistribution(constant.choices)
    if constant.is_integer:
        return IntDistribution(int(constant.low), int(constant.high), log=constant.log)
    return FloatDistribution(float(constant.low), float(constant.high), log=constant.log)
