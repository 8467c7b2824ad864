"""Count files of tasks/denoising: files of the published formats, written here, and how a real matrix is cut."""

import csv
import gzip
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import yaml
from scipy import sparse
from scipy.io import mmwrite

from sia_runner.config.task import TableTaskConfig as Spec
from sia_runner.records import OutcomeKind
from sia_runner.system import bundled_folder
from sia_runner.tasks.table import TableTask
from sia_runner.tasks.worker import load_module
from tests.fixtures.anndata import make as made_by_anndata
from tests.tasks.making import read_csv

TASK = bundled_folder("tasks") / "denoising"
load_module(TASK / "verifier.py")  # puts its folder on the path
count_files, dealt = import_module("count_files"), import_module("molecules").dealt
read_counts, UnreadableError = count_files.read_counts, count_files.UnreadableError


@pytest.fixture
def counts():
    """(cells, genes), with an empty gene, an empty cell and a cell of one molecule."""
    rng = np.random.default_rng(0)
    found = rng.poisson(rng.gamma(0.3, 4, (60, 50)))
    found[:, 7] = found[3] = found[4] = 0
    found[4, 1] = 1
    return found


def usable(counts):
    return counts[counts.sum(axis=1) > 1][:, counts.sum(axis=0) > 0]


def mtx_folder(path, counts, *, other_genes=0, turned=False, version=3, prefix="", cells=None):
    """As Cell Ranger writes it; `turned`: (cells, genes), as others do; version 2: genes.tsv, nothing compressed."""
    path.mkdir()
    end, opened = (".gz", gzip.open) if version == 3 else ("", open)
    genes = counts.shape[1]
    kinds = ["Gene Expression"] * (genes - other_genes) + ["Antibody Capture"] * other_genes
    rows = [f"ENSG{n:011d}\tgene {n}" + (f"\t{kind}" if version == 3 else "") for n, kind in enumerate(kinds)]
    barcodes = [f"AAACCCAAG{n:07d}-1" for n in range(len(counts) if cells is None else cells)]
    for name, lines in (("features" if version == 3 else "genes", rows), ("barcodes", barcodes)):
        with opened(path / f"{prefix}{name}.tsv{end}", "wb") as stream:
            stream.write("".join(f"{line}\n" for line in lines).encode())
    with opened(path / f"{prefix}matrix.mtx{end}", "wb") as stream:
        mmwrite(stream, sparse.coo_matrix(counts if turned else counts.T))
    return path


def tenx_h5(path, counts, group="matrix", other_genes=0):
    """As Cell Ranger writes it: compressed columns of (genes, cells), stored by gzip in chunks, with barcodes and
    features; version 2 has a group of the genome's name and no kinds of features."""
    h5py = pytest.importorskip("h5py", reason="NOT CHECKED: reading .h5 needs pip install 'sia-runner[denoising]'")
    columns, genes = sparse.csc_matrix(counts.T), counts.shape[1]
    names = np.array([b"ENSG%011d" % number for number in range(genes)])
    with h5py.File(path, "w") as file:
        made = file.create_group(group)

        def put(name, values):
            made.create_dataset(name, data=values, chunks=True, compression="gzip", shuffle=True)

        put("data", columns.data.astype(np.int32))
        put("indices", columns.indices.astype(np.int64))
        put("indptr", columns.indptr.astype(np.int64))
        put("shape", np.array(columns.shape, np.int32))
        put("barcodes", np.array([b"AAACCCAAG%07d-1" % number for number in range(len(counts))]))
        if group == "matrix":
            file.attrs["filetype"], file.attrs["version"] = "matrix", 2
            kinds = [b"Gene Expression"] * (genes - other_genes) + [b"Antibody Capture"] * other_genes
            facts = {"id": names, "name": names, "genome": np.full(genes, b"GRCh38"), "feature_type": np.array(kinds)}
            for name, values in facts.items():
                put(f"features/{name}", values)
            made["features/_all_tag_keys"] = np.array([b"genome"])
        else:
            put("genes", names)
            put("gene_names", names)
    return path


def h5ad(path, counts, *, old=False, dense=False, column=False):
    """AnnData's: X, a layer `counts`, and cells with an annotation `tech`."""
    h5py = pytest.importorskip("h5py", reason="NOT CHECKED: reading .h5ad needs pip install 'sia-runner[denoising]'")

    def put(file, name):
        if dense:
            file[name] = counts.astype(np.float32)
            return
        made, stored = file.create_group(name), (sparse.csc_matrix if column else sparse.csr_matrix)(counts)
        for part in ("data", "indices", "indptr"):
            made[part] = getattr(stored, part)
        made.attrs["h5sparse_format" if old else "encoding-type"] = "csc_matrix" if column else "csr_matrix"
        made.attrs["h5sparse_shape" if old else "shape"] = counts.shape

    with h5py.File(path, "w") as file:
        put(file, "X")
        put(file, "layers/counts")
        codes = np.arange(len(counts)) % 3 == 0
        if old:
            file["obs/tech"] = codes.astype(np.int8)
            file["obs/__categories/tech"] = [b"celseq", b"inDrop1"]
        else:
            file["obs/tech/codes"] = codes.astype(np.int8)
            file["obs/tech/categories"] = [b"celseq", b"inDrop1"]
    return path


def test_a_10x_folder_is_read_without_empty_genes_and_cells_of_fewer_than_two_molecules(tmp_path, counts):
    found = read_counts(mtx_folder(tmp_path / "filtered_feature_bc_matrix", counts))
    assert (found.toarray() == usable(counts)).all()


@pytest.mark.parametrize("how", [{"turned": True}, {"version": 2}, {"prefix": "GSM1_pbmc_"}])
def test_a_matrix_is_turned_by_its_barcodes_and_features_and_found_by_the_end_of_its_name(tmp_path, counts, how):
    found = read_counts(mtx_folder(tmp_path / "folder", counts, **how))
    assert (found.toarray() == usable(counts)).all()


def test_a_10x_folder_has_the_genes_of_its_h5_file(tmp_path, counts):
    """Antibodies are counted beside genes, in far higher numbers."""
    found = read_counts(mtx_folder(tmp_path / "folder", counts, other_genes=10))
    assert (found.toarray() == usable(counts[:, :-10])).all()
    assert (found != read_counts(tenx_h5(tmp_path / "m.h5", counts, other_genes=10))).nnz == 0


def test_a_10x_folder_whose_parts_do_not_belong_together_is_refused(tmp_path, counts):
    with pytest.raises(UnreadableError, match="50 x 60.*features are 50.*barcodes 59"):
        read_counts(mtx_folder(tmp_path / "other", counts, cells=59))
    folder = mtx_folder(tmp_path / "alone", counts)
    (folder / "features.tsv.gz").unlink()
    with pytest.raises(UnreadableError, match=r"features.tsv\[.gz\] or genes.tsv"):
        read_counts(folder)
    with pytest.raises(UnreadableError, match="Antibody Capture; Gene Expression"):
        read_counts(mtx_folder(tmp_path / "antibodies", counts, other_genes=50))


@pytest.mark.parametrize("group", ["matrix", "GRCh38"])
def test_a_10x_h5_file_is_read_in_both_of_its_layouts(tmp_path, counts, group):
    assert (read_counts(tenx_h5(tmp_path / "m.h5", counts, group)).toarray() == usable(counts)).all()


def test_of_a_10x_h5_file_only_genes_count(tmp_path, counts):
    found = read_counts(tenx_h5(tmp_path / "m.h5", counts, other_genes=10))
    assert (found.toarray() == usable(counts[:, :-10])).all()


@pytest.mark.parametrize("how", [{}, {"old": True}, {"dense": True}, {"column": True}])
@pytest.mark.parametrize("layer", ["", "counts"])
def test_an_h5ad_file_is_read_as_it_may_be_stored(tmp_path, counts, how, layer):
    path = h5ad(tmp_path / "m.h5ad", counts, **how)
    assert (read_counts(path, layer=layer).toarray() == usable(counts)).all()


@pytest.mark.parametrize("old", [False, True])
def test_cells_are_kept_by_annotation_and_sampled_by_seed(tmp_path, counts, old):
    path = h5ad(tmp_path / "m.h5ad", counts, old=old)
    assert (read_counts(path, keep="tech=inDrop1").toarray() == usable(counts[::3])).all()
    few = [read_counts(path, cells=20, seed=seed).toarray() for seed in (1, 1, 2)]
    assert len(few[0]) <= 20
    assert np.array_equal(few[0], few[1])
    assert not np.array_equal(few[0], few[2])


def anndata_file(tmp_path, name):
    """A file that AnnData itself wrote: see tests/fixtures/anndata/make.py."""
    pytest.importorskip("h5py", reason="NOT CHECKED: reading .h5ad needs pip install 'sia-runner[denoising]'")
    path = tmp_path / f"{name}.h5ad"
    path.write_bytes(gzip.decompress((Path(made_by_anndata.__file__).parent / f"{name}.h5ad.gz").read_bytes()))
    return path


@pytest.mark.parametrize(
    ("keep", "first"),
    [
        ("nullable_string=liver", 1),
        ("nullable_integer=18", 1),
        ("nullable_boolean=False", 1),
        ("nullable_string=", 2),  # missing values
        ("category=lung", 0),
        ("category_of_integers=30", 2),
        ("category_of_nullable=liver", 1),
        ("text=heart", 2),
        ("integer=3", 0),
    ],
)
def test_cells_are_kept_by_an_annotation_of_any_encoding_and_antibodies_are_left_out(tmp_path, keep, first):
    found = read_counts(anndata_file(tmp_path, "annotated"), keep=keep)
    assert (found.toarray() == made_by_anndata.expected_counts()[first::3]).all()


@pytest.mark.parametrize(("keep", "there"), [("nullable_integer=7", "18, 3"), ("category=heart", "liver, lung")])
def test_values_are_listed_where_no_cell_has_the_one_asked_for(tmp_path, keep, there):
    with pytest.raises(UnreadableError, match=f"no cell has {keep}; there are: .*{there}"):
        read_counts(anndata_file(tmp_path, "annotated"), keep=keep)


def test_an_h5ad_file_says_where_its_counts_are_and_both_places_can_be_chosen(tmp_path):
    path, expected = anndata_file(tmp_path, "normalised"), made_by_anndata.expected_counts()
    with pytest.raises(UnreadableError) as refusal:
        read_counts(path)
    for words in ("X holds no counts", "task.data.arguments.layer=raw.X", "task.data.arguments.layer=counts"):
        assert words in str(refusal.value)
    for layer in ("raw.X", "counts"):
        assert (read_counts(path, layer=layer).toarray() == expected).all()
    without_x = anndata_file(tmp_path, "without_x")
    with pytest.raises(UnreadableError, match="no X; counts are in: .task.data.arguments.layer=counts"):
        read_counts(without_x)
    assert (read_counts(without_x, layer="counts").toarray() == expected).all()


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"keep": "tech=inDrop2"}, "tech=inDrop2.*celseq, inDrop1"),
        ({"keep": "organ=lung"}, "'organ'.*tech"),
        ({"layer": "raw"}, "'raw'.*counts"),
    ],
)
def test_what_is_not_there_is_named_with_what_is(tmp_path, counts, asked, said):
    with pytest.raises(UnreadableError, match=said):
        read_counts(h5ad(tmp_path / "m.h5ad", counts), **asked)


def test_normalised_values_and_other_files_are_refused(tmp_path, counts):
    with pytest.raises(UnreadableError, match="normalised"):
        read_counts(mtx_folder(tmp_path / "normalised", counts / 3))
    (tmp_path / "wrong.h5").write_text("no HDF5")
    pytest.importorskip("h5py", reason="NOT CHECKED: reading .h5 needs pip install 'sia-runner[denoising]'")
    with pytest.raises(UnreadableError, match="format"):
        read_counts(tmp_path / "wrong.h5")
    with pytest.raises(UnreadableError, match="h5ad"):
        read_counts(tmp_path / "counts.csv")


def test_no_matrix_holds_a_molecule_that_is_judged_in_it_or_later(tmp_path, counts):
    """A real matrix is cut in a nested way: test molecules leave first. Followed molecule by molecule, gene by gene."""
    source, out = mtx_folder(tmp_path / "source", counts), tmp_path / "out"
    out.mkdir()
    command = [sys.executable, "-I", str(TASK / "make_data.py"), "--out", str(out), "--source", str(source), "--seed=5"]
    subprocess.run(command, check=True)
    before, before_gold, final, final_gold = (
        sparse.load_npz(out / f"{side}/{name}.npz") for name in ("before", "final") for side in ("train", "held_out")
    )
    all_of_it = read_counts(source)
    kept = np.flatnonzero(dealt(all_of_it, np.random.RandomState(5)).train.sum(axis=0))
    whole = dealt(all_of_it, np.random.RandomState(5))
    assert (final != whole.train).nnz == 0 and len(kept) == final.shape[1]
    assert (final_gold != whole.held_out).nnz == 0  # test: exactly what Open Problems would hold out
    sums = np.asarray(before.sum(axis=1) + before_gold.sum(axis=1)).ravel()
    dropped = np.asarray(final.sum(axis=1)).ravel() - sums  # molecules of genes without any train molecule
    assert (dropped >= 0).all() and dropped.sum() < 0.05 * final.sum()
    assert 0.05 < before_gold.sum() / final.sum() < 0.15
    with (out / "labelled.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [row["part"] for row in rows] == [f"{k}/20" for k in range(1, 21)]
    assert {(row["counts"], row["held_out"]) for row in rows} == {("train/before.npz", "held_out/before.npz")}
    with (out / "test.csv").open() as stream:
        assert {row["counts"] for row in csv.DictReader(stream)} == {"train/final.npz"}


def test_a_10x_file_becomes_a_task_whose_20_parts_share_one_answer(tmp_path, counts):
    spec = yaml.safe_load((bundled_folder("conf") / "task" / "denoising_real.yaml").read_text(encoding="utf-8"))
    spec["data"]["local"] = str(tenx_h5(tmp_path / "pbmc_1k_v3_filtered_feature_bc_matrix.h5", counts))
    task = TableTask(Spec.model_validate(spec), 0, tmp_path / "cache")
    task.prepare(lambda _: None)
    view = task.lay_out(task.rounds("test")[0], tmp_path / "view", "salt")
    (shown,) = {view.path / row["counts"] for row in read_csv(view.path / "questions.csv")}
    held_out = dealt(read_counts(Path(spec["data"]["local"])), np.random.RandomState(0)).held_out.toarray()
    assert sparse.load_npz(shown).shape == held_out.shape
    (tmp_path / "work/denoised").mkdir(parents=True)
    np.save(tmp_path / f"work/denoised/{shown.stem}.npy", held_out + 1e-9)
    task.collect(tmp_path / "work", tmp_path / "kept")
    outcomes = task.verify(tmp_path / "kept", view.keys, OutcomeKind.NO_ANSWER)
    assert len(outcomes) == 20
    assert task.score(outcomes).value == pytest.approx(1, abs=1e-3)
