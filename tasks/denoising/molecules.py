"""Molecular cross-validation: molecules of a count matrix are dealt to a train and a held-out side."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy import sparse

TRAIN = 0.9
_ROWS = 256  # at a time, as dense matrices


@dataclass(frozen=True, slots=True)
class Pair:
    """Two count matrices (cells, genes) over the same genes: those with a train molecule."""

    train: sparse.csr_matrix
    held_out: sparse.csr_matrix


def dealt(counts: sparse.csr_matrix, random: np.random.RandomState) -> Pair:
    """Each molecule is train with probability 0.9; genes without a train molecule are left out.

    As Open Problems deals them: numpy's RandomState, over all entries of the dense matrix row by row, zeros too (each
    takes a random number), so that the same file and seed give the same molecules.
    """
    train = sparse.vstack(list(_blocks(counts, random)), format="csr")
    kept = np.flatnonzero(np.asarray(train.sum(axis=0)).ravel())
    held_out = sparse.csr_matrix(counts - train)
    held_out.eliminate_zeros()
    return Pair(sparse.csr_matrix(train[:, kept]), sparse.csr_matrix(held_out[:, kept]))


def _blocks(counts: sparse.csr_matrix, random: np.random.RandomState) -> Iterator[sparse.csr_matrix]:
    for start in range(0, counts.shape[0], _ROWS):
        yield sparse.csr_matrix(random.binomial(counts[start : start + _ROWS].toarray().astype(np.int64), TRAIN))
