"""The naive start: the molecules as they were counted. Nothing is denoised."""

import argparse
import csv
from pathlib import Path

import numpy as np
from scipy import sparse


def denoised(counts: np.ndarray) -> np.ndarray:
    """(cells, genes), from molecules that were counted to expected ones."""
    return counts


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
