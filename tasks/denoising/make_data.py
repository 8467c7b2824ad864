"""Makes the denoising task's data: simulated data sets, or a count matrix of the user's.

    python make_data.py --out DIR                     45 simulated data sets: 30 labelled, 15 test
    python make_data.py --out DIR --source FILE       one real matrix (see count_files.py), in 20 parts of its cells

Writes labelled.csv, test.csv, answers.csv (columns id, counts, part, held_out), about.md and the matrices they name.

Of a real matrix the test molecules are dealt first, exactly as Open Problems does with this seed. What is judged before
the test is dealt from the rest, so that no molecule that is held out anywhere stands in a matrix shown before.
"""

import argparse
import csv
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from scipy import sparse

sys.path.insert(0, str(Path(__file__).resolve().parent))
from count_files import UnreadableError, read_counts
from molecules import Pair, dealt
from simulate import drawn, simulated

LABELLED, TEST = 30, 15  # simulated data sets
PARTS = 20  # of a real matrix
HEADER = ["id", "counts", "part", "held_out"]
Row = list[object]


def simulate(out: Path, seed: int) -> str:
    rows = {"labelled": [], "test": []}
    for number in range(LABELLED + TEST):
        rng = np.random.default_rng([seed, number])
        counts = simulated(drawn(rng), rng)
        pair = dealt(counts, np.random.RandomState(rng.integers(2**32)))
        files = saved(pair, out, f"{number:02d}")
        rows["labelled" if number < LABELLED else "test"].append([number, *files[:1], "1/1", *files[1:]])
    write_tables(out, rows["labelled"], rows["test"])
    return (
        f"The counts are **simulated** (gamma-Poisson; seed {seed}): data sets of about 300 cells and 1,100 genes, "
        "with cell types, a gradient and library sizes that differ from one to the next. Figures on them say nothing "
        "about real cells. Each data set is one question; `part` is `1/1`, all of it."
    )


def cut(counts: sparse.csr_matrix, out: Path, seed: int) -> str:
    """One real matrix: test molecules leave first, then those of dev and val."""
    final = dealt(counts, np.random.RandomState(seed))
    before = dealt(final.train, np.random.RandomState([seed, 1]))
    cells, genes = final.train.shape
    shown = [
        [[number, files[0], f"{number}/{PARTS}", files[1]] for number in range(1, PARTS + 1)]
        for files in (saved(before, out, "before"), saved(final, out, "final"))
    ]
    write_tables(out, *shown)
    return (
        f"The counts are those of one real matrix: {counts.sum():,} molecules of {cells:,} cells and {genes:,} genes. "
        f"A question is one part of its cells: of part k/{PARTS} the cells k-1, k-1+{PARTS}, ... The parts share one "
        "file, and one answer to it."
    )


def saved(pair: Pair, out: Path, name: str) -> tuple[str, str]:
    """Paths below `out` of the train and the held-out matrix."""
    paths = f"train/{name}.npz", f"held_out/{name}.npz"
    for path, counts in zip(paths, (pair.train, pair.held_out), strict=True):
        (out / path).parent.mkdir(exist_ok=True)
        sparse.save_npz(out / path, counts.astype(np.int32))
    return paths


def write_tables(out: Path, labelled: Sequence[Row], test: Sequence[Row]) -> None:
    write(out / "labelled.csv", HEADER, labelled)
    write(out / "test.csv", HEADER[:-1], (row[:-1] for row in test))
    write(out / "answers.csv", [HEADER[0], HEADER[-1]], ([row[0], row[-1]] for row in test))


def write(path: Path, header: Sequence[str], rows: Iterable[Row]) -> None:
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--source", type=Path, help="a 10x folder, a 10x .h5 or an .h5ad file of counts")
    parser.add_argument("--seed", type=int, default=0, help="of the simulation, or of the split of molecules")
    parser.add_argument("--keep", default="", help="COLUMN=VALUE: of an .h5ad file the cells with this annotation only")
    parser.add_argument("--layer", default="", help="of an .h5ad file; default: its X")
    parser.add_argument("--cells", type=int, default=0, help="a random sample of so many cells; 0: all")
    args = parser.parse_args()
    if args.source is None:
        about = simulate(args.out, args.seed)
    else:
        try:
            counts = read_counts(args.source, keep=args.keep, layer=args.layer, cells=args.cells, seed=args.seed)
        except UnreadableError as error:
            sys.exit(f"{args.source}: {error}")
        about = cut(counts, args.out, args.seed)
    (args.out / "about.md").write_text(f"## The data\n\n{about}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
