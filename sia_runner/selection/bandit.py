"""A bandit over proposer models: spending shifts to the one whose proposals gain most on val per dollar.

Thompson sampling for a budget (Xia et al. 2015): a model's share of the largest gain so far is drawn from its Beta
posterior and divided by its mean cost; the largest quotient is chosen. The prior's mean is that of all models, since
most proposals gain nothing, whoever made them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random
from statistics import fmean

from sia_runner.records import PastGeneration, Status

_PRIOR = 2.0  # proposals that the prior counts as


@dataclass(frozen=True, slots=True)
class ModelRecord:
    """The gains and costs of one model's proposals, a value for each generation."""

    gains: tuple[float, ...]  # beyond one standard error, in units of the metric; 0 where it was not accepted
    costs: tuple[float, ...]  # of proposing, gate and run: US dollars, or tokens where some price is not known


def model_records(
    models: Sequence[str], history: Sequence[PastGeneration], higher_is_better: bool
) -> dict[str, ModelRecord]:
    """Return the record of each model.

    A candidate that could gain nothing says nothing: the first accepted one, and one without a fair chance. One that
    failed before any was accepted counts, or a model that never brings a working harness would be the only one tried.
    """
    sign = 1 if higher_is_better else -1
    compared: dict[str, list[PastGeneration]] = {model: [] for model in models}
    is_first = True
    for past in history:
        accepted = past.status == Status.ACCEPTED
        if past.model in compared and past.status != Status.UNSCORED and not (is_first and accepted):
            compared[past.model].append(past)
        is_first = is_first and not accepted
    priced = all(past.usage.usd > 0 or not past.usage.tokens for pasts in compared.values() for past in pasts)
    return {
        model: ModelRecord(
            gains=tuple(_gain(past, sign) for past in pasts),
            costs=tuple(past.usage.usd if priced else float(past.usage.tokens) for past in pasts),
        )
        for model, pasts in compared.items()
    }


def _gain(past: PastGeneration, sign: int) -> float:
    """Return what a proposal gained beyond its standard error: of what is accepted by chance, little is left."""
    if past.status != Status.ACCEPTED or past.difference is None:
        return 0.0
    return max(0.0, sign * past.difference - (past.standard_error or 0.0))


def choose_model(models: Sequence[str], history: Sequence[PastGeneration], seed: str, higher_is_better: bool) -> str:
    """Return the model that proposes next. Each one is tried once first, in order; the same `seed` draws the same."""
    records = model_records(models, history, higher_is_better)
    for model in models:
        if not records[model].costs:
            return model
    return max(_drawn_quotients(records, Random(seed)).items(), key=lambda item: item[1])[0]


def _drawn_quotients(records: Mapping[str, ModelRecord], rng: Random) -> dict[str, float]:
    largest = max(gain for record in records.values() for gain in record.gains) or 1.0
    everywhere = [cost for record in records.values() for cost in record.costs if cost]
    tries = sum(len(record.gains) for record in records.values())
    expected = (1 + sum(sum(record.gains) for record in records.values()) / largest) / (2 + tries)
    quotients: dict[str, float] = {}
    for model, record in records.items():
        gained = sum(record.gains) / largest
        missed = len(record.gains) - gained
        share = rng.betavariate(_PRIOR * expected + gained, _PRIOR * (1 - expected) + missed)
        own = [cost for cost in record.costs if cost]  # a proposer that failed at once was not paid
        quotients[model] = share / fmean(own or everywhere or [1.0])
    return quotients
