"""The area under the ROC curve of outcomes whose value is a score (or its rank)."""

from collections.abc import Mapping, Sequence

from sia_runner.records import Outcome


def auc(outcomes: Sequence[Outcome], gold: Mapping[str, str], positive: str) -> float:
    """Return P(a positive scores above a negative), ties half; .5 where one of the two classes does not occur."""
    import numpy as np

    values = np.array([outcome.value for outcome in outcomes])
    is_positive = np.array([gold[outcome.unit] == positive for outcome in outcomes], dtype=bool)
    positives = int(is_positive.sum())
    pairs = positives * (len(outcomes) - positives)
    if not pairs:
        return 0.5
    _, group_index, count = np.unique(values, return_inverse=True, return_counts=True)
    mean_rank = np.cumsum(count) - (count - 1) / 2
    return float((mean_rank[group_index][is_positive].sum() - positives * (positives + 1) / 2) / pairs)
