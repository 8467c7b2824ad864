"""Reads count matrices as they are published: a 10x folder (matrix.mtx), a 10x .h5 file, an .h5ad file.

All become (cells, genes) of whole numbers, without empty genes and without cells of fewer than two molecules, which is
what Open Problems leaves out before it splits.
"""

import gzip
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy import sparse

LEAST_MOLECULES = 2
_GENE_KINDS = ("Gene Expression", "GEX")  # 10x's, Open Problems'
_LOOKED_AT = 100_000  # values of a matrix that was not asked for
_MAX_LISTED = 20  # names in a message


class UnreadableError(Exception):
    """The file holds no counts that can be used; the message says why in a few words."""


def read_counts(path: Path, *, keep: str = "", layer: str = "", cells: int = 0, seed: int = 0) -> sparse.csr_matrix:
    """Raises UnreadableError."""
    if (keep or layer) and path.suffix != ".h5ad":
        raise UnreadableError("keep and layer are for .h5ad files")
    try:
        if path.is_dir():
            counts = _mtx(path)
        elif path.suffix == ".h5":
            counts = _tenx_h5(path)
        elif path.suffix == ".h5ad":
            counts = _h5ad(path, keep, layer)
        else:
            raise UnreadableError("neither a folder with matrix.mtx nor an .h5 or .h5ad file")
    except ModuleNotFoundError as error:
        raise UnreadableError(
            f"reading it needs the module {error.name}; pip install 'sia-runner[denoising]'"
        ) from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UnreadableError(f"not in the format that its name says ({error})") from error
    return _usable(_sampled(sparse.csr_matrix(counts), cells, seed))


def _mtx(folder: Path) -> sparse.spmatrix:
    """Read a 10x folder: matrix.mtx is (genes, cells), or (cells, genes) where other programs wrote it."""
    from scipy.io import mmread

    matrix = sparse.csc_matrix(mmread(_file(folder, "matrix.mtx")))
    features = _rows(_file(folder, "features.tsv", "genes.tsv"))
    cells = len(_rows(_file(folder, "barcodes.tsv")))
    if matrix.shape not in ((len(features), cells), (cells, len(features))):
        raise UnreadableError(
            f"its matrix is {matrix.shape[0]} x {matrix.shape[1]}, but its features are {len(features)} and its "
            f"barcodes {cells}"
        )
    counts = matrix.T if matrix.shape == (len(features), cells) else matrix
    kinds = [row[2] for row in features if len(row) > 2]
    return _genes_only(sparse.csr_matrix(counts), kinds if len(kinds) == len(features) else None)


def _file(folder: Path, *names: str) -> Path:
    """Return the file of the folder with one of these names, which may have a prefix and end with .gz."""
    paths = [path for name in names for path in sorted([*folder.glob(f"*{name}"), *folder.glob(f"*{name}.gz")])]
    if len(paths) != 1:
        words = " or ".join(f"{name}[.gz]" for name in names)
        raise UnreadableError(f"it needs one file {words}, and has {', '.join(path.name for path in paths) or 'none'}")
    return paths[0]


def _rows(path: Path) -> list[list[str]]:
    """Return the rows of a table without a header, separated by tabs."""
    opened = gzip.open if path.suffix == ".gz" else open
    with opened(path, "rt", encoding="utf-8") as stream:
        return [line.rstrip("\r\n").split("\t") for line in stream if line.strip()]


def _genes_only(counts: sparse.csr_matrix, kinds: Sequence[str] | None) -> sparse.csr_matrix:
    """Return the columns of genes; others are antibodies, peaks or guides. None: no kinds are recorded."""
    if kinds is None:
        return counts
    genes = np.flatnonzero(np.isin(kinds, _GENE_KINDS))
    if not len(genes):
        raise UnreadableError(f"its features are {_listed(kinds)}; {' or '.join(_GENE_KINDS)} is needed")
    return counts[:, genes]


def _listed(names: Iterable[str]) -> str:
    distinct = sorted(set(names))
    return ", ".join(distinct[:_MAX_LISTED]) + (", ..." if len(distinct) > _MAX_LISTED else "") or "none"


def _tenx_h5(path: Path) -> sparse.spmatrix:
    """10x: the group `matrix` (Cell Ranger 3 and later), or one named after the genome (2); (genes, cells)."""
    import h5py

    with h5py.File(path, "r") as file:
        names = list(file)
        group = file["matrix" if "matrix" in names else names[0]]
        if "matrix" not in names and len(names) != 1:
            raise UnreadableError(f"it holds {len(names)} genomes: {', '.join(names)}; one is wanted")
        parts = tuple(group[name][()] for name in ("data", "indices", "indptr"))
        kinds = _texts(group["features/feature_type"]) if "features/feature_type" in group else None
        counts = sparse.csc_matrix(parts, shape=tuple(group["shape"][()])).T.tocsr()
    return _genes_only(counts, kinds)


def _h5ad(path: Path, keep: str, layer: str) -> sparse.spmatrix:
    """AnnData's format on disk, read without that package, which holds back pandas: X, raw.X or a layer."""
    import h5py

    with h5py.File(path, "r") as file:
        places = {"": "X", "raw.X": "raw/X"} | {name: f"layers/{name}" for name in file.get("layers", ())}
        places = {name: place for name, place in places.items() if place in file and _is_matrix(file[place])}
        if layer not in places:
            problem = f"it has no layer {layer!r}" if layer else "it has no X"
            raise UnreadableError(f"{problem}; {_elsewhere(file, places)}")
        counts = _matrix(file[places[layer]])
        if not _are_counts(counts.data):
            problem = f"its {layer or 'X'} holds no counts of molecules (normalised, perhaps)"
            raise UnreadableError(f"{problem}; {_elsewhere(file, places)}")
        var = file["raw/var" if layer == "raw.X" else "var"] if "var" in file else {}
        counts = _genes_only(counts, _texts(var["feature_types"]) if "feature_types" in var else None)
        return counts[_cells_with(file["obs"], keep)] if keep else counts


def _is_matrix(stored: Any) -> bool:
    return hasattr(stored, "keys") or stored.shape is not None  # without a shape: AnnData's way to store None


def _elsewhere(file: Any, places: Mapping[str, str]) -> str:
    """Return where in the file counts are, and the key that chooses them. Looks at the first values only."""

    def first_values(stored: Any) -> np.ndarray:
        return stored["data"][:_LOOKED_AT] if hasattr(stored, "keys") else stored[: 1 + _LOOKED_AT // stored.shape[1]]

    names = [name for name, place in places.items() if _are_counts(first_values(file[place]))]
    if not names:
        return f"no counts in it (looked at: {', '.join(places.values()) or 'nothing'})"
    ways = ["X, without layer" if name == "" else f"+task.data.arguments.layer={name}" for name in names]
    return f"counts are in: {', '.join(ways)}"


def _matrix(stored: Any) -> sparse.csr_matrix:
    """A dense dataset, or a group of data, indices and indptr; attributes as of AnnData 0.7 or before."""
    if not hasattr(stored, "keys"):
        return sparse.csr_matrix(stored[()])
    kind = stored.attrs.get("encoding-type", stored.attrs.get("h5sparse_format", ""))
    shape = stored.attrs.get("shape", stored.attrs.get("h5sparse_shape"))
    if not str(kind).startswith(("csr", "csc")) or shape is None:
        raise UnreadableError(f"its matrix is of the kind {kind!r}; csr or csc is wanted")
    parts = tuple(stored[name][()] for name in ("data", "indices", "indptr"))
    make = sparse.csc_matrix if str(kind).startswith("csc") else sparse.csr_matrix
    return sparse.csr_matrix(make(parts, shape=tuple(shape)))


def _cells_with(obs: Any, keep: str) -> np.ndarray:
    """Return the indices of the cells whose annotation is as `keep` says."""
    column, _, value = keep.partition("=")
    if column not in obs:
        names = (name for name in obs if not name.startswith("_"))
        raise UnreadableError(f"its cells have no {column!r}; there are: {_listed(names)}")
    texts = _texts(obs[column], obs.get("__categories", {}).get(column))
    chosen = np.flatnonzero(texts == value)
    if not len(chosen):
        raise UnreadableError(f"no cell has {keep}; there are: {_listed(texts)}")
    return chosen


def _texts(stored: Any, categories: Any = None) -> np.ndarray:
    """Return a column of any of AnnData's encodings as texts, missing values as empty ones.

    `categories`: of a column of codes, where they are stored apart (before AnnData 0.8).
    """
    keys = set(stored) if hasattr(stored, "keys") else set()
    if categories is not None or {"codes", "categories"} <= keys:
        names = _texts(stored["categories"] if categories is None else categories)
        codes = stored[()] if categories is not None else stored["codes"][()]
        return np.append(names, "")[codes]  # the code of a missing value is -1
    if {"values", "mask"} <= keys:  # nullable strings, integers and booleans
        return np.where(stored["mask"][()], "", _texts(stored["values"]))
    if keys:
        raise UnreadableError(f"{stored.name} is stored as {stored.attrs.get('encoding-type')!r}, which is not read")
    return np.array([str(v, "utf-8") if isinstance(v, bytes) else str(v) for v in stored[()]], dtype=object)


def _sampled(counts: sparse.csr_matrix, cells: int, seed: int) -> sparse.csr_matrix:
    if not 0 < cells < counts.shape[0]:
        return counts
    return counts[np.sort(np.random.default_rng(seed).choice(counts.shape[0], cells, replace=False))]


def _usable(counts: sparse.csr_matrix) -> sparse.csr_matrix:
    if not _are_counts(counts.data):
        raise UnreadableError("its values are no counts of molecules (raw counts are wanted, nothing normalised)")
    counts = sparse.csr_matrix(
        (np.rint(counts.data).astype(np.int64), counts.indices, counts.indptr), shape=counts.shape
    )
    counts = counts[:, np.flatnonzero(np.asarray(counts.sum(axis=0)).ravel())]
    counts = counts[np.flatnonzero(np.asarray(counts.sum(axis=1)).ravel() >= LEAST_MOLECULES)]
    if not counts.nnz:
        raise UnreadableError("it holds no molecule")
    return counts


def _are_counts(values: np.ndarray) -> bool:
    """Report whether all values are whole numbers of 0 or more."""
    if values.dtype.kind not in "biuf":
        return False
    whole = np.rint(values)
    return bool(np.allclose(values, whole) and (whole >= 0).all())
