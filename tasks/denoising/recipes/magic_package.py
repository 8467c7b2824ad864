"""MAGIC (van Dijk et al. 2018) by its own package; the defaults are Open Problems' settings."""

import argparse
import csv
from pathlib import Path

import numpy as np
from magic import MAGIC
from scipy import sparse

KNN = 5
KNN_MAX = 15
DECAY = 1
STEPS = 3
PCS = 100
REVERSED = True
ROUND = False
SHRUNK = 0.001  # poisson_norm asks for little mass where no molecule is held out; mse_norm does not see the scale


def denoised(counts: np.ndarray) -> np.ndarray:
    """Square roots are diffused over similar cells. REVERSED takes them before cells are made equally large, as the
    better of Open Problems' two variants does."""
    if REVERSED:
        roots, sizes = equally_large(np.sqrt(counts))
    else:
        equal, sizes = equally_large(counts)
        roots = np.sqrt(equal)
    operator = MAGIC(
        knn=KNN, knn_max=KNN_MAX, decay=DECAY, t=STEPS, n_pca=PCS, solver="exact", random_state=0, n_jobs=1, verbose=0
    )
    found = np.asarray(operator.fit_transform(roots, genes="all_genes")) ** 2 * sizes
    if ROUND:
        found = np.rint(equally_large(found)[0] * counts.sum(axis=1, keepdims=True))
    return found * (1 if REVERSED and not ROUND else SHRUNK)


def equally_large(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows that sum to 1, and what they summed to."""
    sums = values.sum(axis=1, keepdims=True)
    sizes = np.where(sums > 0, sums, 1.0)
    return values / sizes, sizes


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
