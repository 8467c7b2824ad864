"""Reads count matrices as they are published: a 10x folder (matrix.mtx), a 10x .h5 file, an .h5ad file.

All become (cells, genes) of whole numbers, without empty genes and without cells of fewer than two molecules, which is
what Open Problems leaves out before it splits.
"""

from pathlib import Path
from typing import Any

import numpy as np
from scipy import sparse

LEAST_MOLECULES = 2


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
    except (OSError, ValueError, KeyError) as error:
        raise UnreadableError(f"not in the format that its name says ({error})") from error
    return _usable(_sampled(sparse.csr_matrix(counts), cells, seed))


def _mtx(folder: Path) -> sparse.spmatrix:
    """10x: matrix.mtx or matrix.mtx.gz, (genes, cells)."""
    from scipy.io import mmread

    found = sorted(folder.glob("*matrix.mtx*"))
    if len(found) != 1:
        raise UnreadableError(f"{len(found)} files named matrix.mtx or matrix.mtx.gz in it; one is wanted")
    return sparse.csc_matrix(mmread(found[0])).T


def _tenx_h5(path: Path) -> sparse.spmatrix:
    """10x: the group `matrix` (Cell Ranger 3 and later), or one named after the genome (2); (genes, cells)."""
    import h5py

    with h5py.File(path, "r") as file:
        names = list(file)
        group = file["matrix" if "matrix" in names else names[0]]
        if "matrix" not in names and len(names) != 1:
            raise UnreadableError(f"it holds {len(names)} genomes: {', '.join(names)}; one is wanted")
        parts = tuple(group[name][()] for name in ("data", "indices", "indptr"))
        kinds = group["features/feature_type"][()] if "features/feature_type" in group else None
        counts = sparse.csc_matrix(parts, shape=tuple(group["shape"][()])).T.tocsr()
    return counts if kinds is None else counts[:, kinds == b"Gene Expression"]


def _h5ad(path: Path, keep: str, layer: str) -> sparse.spmatrix:
    """AnnData's format on disk, read without that package, which holds back pandas: X or a layer, sparse or dense."""
    import h5py

    with h5py.File(path, "r") as file:
        layers = list(file["layers"]) if "layers" in file else []
        if layer and layer not in layers:
            raise UnreadableError(f"it has no layer {layer!r}; there are: {', '.join(layers) or 'none'}")
        counts = _matrix(file[f"layers/{layer}" if layer else "X"])
        return counts[_kept(file["obs"], keep)] if keep else counts


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


def _kept(obs: Any, keep: str) -> np.ndarray:
    """Indices of the cells whose annotation is as `keep` says."""
    column, _, value = keep.partition("=")
    if column not in obs:
        raise UnreadableError(f"its cells have no {column!r}; there are: {', '.join(obs)}")
    stored, old = obs[column], obs.get("__categories", {})
    if hasattr(stored, "keys"):
        codes, names = stored["codes"][()], stored["categories"][()]
    elif column in old:
        codes, names = stored[()], old[column][()]
    else:
        names, codes = np.unique(stored[()], return_inverse=True)
    said = [name.decode() if isinstance(name, bytes) else str(name) for name in names]
    chosen = np.flatnonzero(codes == said.index(value)) if value in said else []
    if not len(chosen):
        raise UnreadableError(f"no cell has {keep}; there are: {', '.join(said)}")
    return np.asarray(chosen)


def _sampled(counts: sparse.csr_matrix, cells: int, seed: int) -> sparse.csr_matrix:
    if not 0 < cells < counts.shape[0]:
        return counts
    return counts[np.sort(np.random.default_rng(seed).choice(counts.shape[0], cells, replace=False))]


def _usable(counts: sparse.csr_matrix) -> sparse.csr_matrix:
    whole = np.rint(counts.data)
    if not np.allclose(counts.data, whole) or (whole < 0).any():
        raise UnreadableError("its values are no counts of molecules (raw counts are wanted, nothing normalised)")
    counts = sparse.csr_matrix((whole.astype(np.int64), counts.indices, counts.indptr), shape=counts.shape)
    counts = counts[:, np.flatnonzero(np.asarray(counts.sum(axis=0)).ravel())]
    counts = counts[np.flatnonzero(np.asarray(counts.sum(axis=1)).ravel() >= LEAST_MOLECULES)]
    if not counts.nnz:
        raise UnreadableError("it holds no molecule")
    return counts
