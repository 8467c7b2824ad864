"""What the held-out logarithm will be on average, given each gene's rate; rates from similar cells or from factors."""

import argparse
import csv
from pathlib import Path

import numpy as np
from scipy import sparse

RATES = "neighbours"
NEIGHBOURS = 15
PCS = 10
POWER = 0.5
FACTORS = 10
OWN = 0.2
STEPS = 60
HELD_OUT = 1 / 9  # held-out molecules for each train molecule
TARGET = 1e4  # molecules to which mse_norm scales every cell before it takes logarithms
SHRUNK = 0.001  # poisson_norm asks for little mass where no molecule is held out; mse_norm does not see the scale


def denoised(counts: np.ndarray) -> np.ndarray:
    """The mean squared error of logarithms is least at the mean of the logarithm, which for a rare gene is far below
    the logarithm of its mean: most held-out counts are 0."""
    sizes = np.maximum(counts.sum(axis=1, keepdims=True), 1.0)
    rates = by_neighbours(counts, sizes) if RATES == "neighbours" else by_factors(counts)
    rates /= np.maximum(rates.sum(axis=1, keepdims=True), 1e-12)
    rates = (1 - OWN) * rates + OWN * counts / sizes
    return at_target(expected_log(rates, np.maximum(sizes * HELD_OUT, 1.0))) * SHRUNK


def expected_log(rates: np.ndarray, depth: np.ndarray) -> np.ndarray:
    """E log(1 + TARGET k / depth) for k from a Poisson distribution of mean rates * depth."""
    means = rates * depth
    chance = np.exp(-means)
    expected = np.zeros_like(means)
    most = means.max()
    for k in range(1, int(most + 6 * np.sqrt(most)) + 7):
        chance = chance * means / k
        expected += chance * np.log1p(TARGET * k / depth)
    return expected


def at_target(logs: np.ndarray) -> np.ndarray:
    """Expressions whose log(1 + x) are `logs`, and which sum to TARGET in each cell: it is scaled there when it is
    judged. What is missing goes to the cell's strongest gene, so that one logarithm is wrong and all others stay; what
    is too much, that scaling takes from all genes in proportion."""
    found = np.expm1(logs)
    missing = np.maximum(TARGET - found.sum(axis=1), 0)
    found[np.arange(len(found)), found.argmax(axis=1)] += missing
    return found


def by_neighbours(counts: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """A power mean over the most similar cells."""
    logs = np.log1p(counts / sizes * np.median(sizes))
    left, strengths, _ = np.linalg.svd(logs - logs.mean(axis=0), full_matrices=False)
    points = left[:, :PCS] * strengths[:PCS]
    lengths = (points**2).sum(axis=1)
    squares = lengths[:, None] + lengths - 2 * points @ points.T
    near = np.argsort(squares, axis=1, kind="stable")[:, :NEIGHBOURS]
    powers = (counts / sizes) ** POWER
    return np.stack([powers[cells].mean(axis=0) for cells in near]) ** (1 / POWER)


def by_factors(counts: np.ndarray) -> np.ndarray:
    """Non-negative factors of the Poisson likelihood (Lee and Seung 1999), drawn towards the mean cell."""
    rng = np.random.default_rng(0)
    mean = counts.sum(axis=0) / counts.sum()
    genes = mean * np.exp(rng.normal(0, 0.3, (FACTORS, counts.shape[1])))
    cells = rng.gamma(2, 1, (len(counts), FACTORS)) * counts.sum(axis=1, keepdims=True) / FACTORS + 1e-9
    for _ in range(STEPS):
        ratio = counts / np.maximum(cells @ genes, 1e-12)
        cells *= ratio @ genes.T / genes.sum(axis=1)
        ratio = counts / np.maximum(cells @ genes, 1e-12)
        genes = (genes * (cells.T @ ratio) + mean) / (cells.sum(axis=0)[:, None] + 1)
    return cells @ genes


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--dataset_dir", type=Path, required=True)
    parser.add_argument("--working_dir", type=Path, required=True)
    args = parser.parse_args()
    with (args.dataset_dir / "questions.csv").open(encoding="utf-8", newline="") as stream:
        files = sorted({row["counts"] for row in csv.DictReader(stream)})
    out = args.working_dir / "denoised"
    out.mkdir(exist_ok=True)
    for file in files:
        counts = sparse.load_npz(args.dataset_dir / file).toarray().astype(np.float64)
        np.save(out / f"{Path(file).stem}.npy", denoised(counts).astype(np.float32))


if __name__ == "__main__":
    main()
