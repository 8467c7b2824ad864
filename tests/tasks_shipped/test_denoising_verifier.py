"""The denoising task from view to outcome: what is worth what, and nothing hostile breaks the judge."""

import io
import os
import pickle
import tempfile
from collections.abc import Callable
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from scipy import sparse

from sia_runner.config.task import TableTaskConfig as Spec
from sia_runner.records import Outcome, OutcomeKind
from sia_runner.system import bundled_folder, cache_dir
from sia_runner.tasks.table import TableTask
from sia_runner.tasks.worker import load_module
from tests.tasks.making import read_csv

KIND = OutcomeKind
Make = Callable[[np.ndarray, np.ndarray], Any]  # (train, held_out) -> an array, or bytes, or None: no file
TASK = bundled_folder("tasks") / "denoising"
VERIFIER = load_module(TASK / "verifier.py")


@pytest.fixture(scope="module")
def task():
    spec = yaml.safe_load((bundled_folder("conf") / "task" / "denoising.yaml").read_text(encoding="utf-8"))
    found = TableTask(Spec.model_validate(spec), 0, cache_dir())
    found.prepare(lambda _: None)
    return found


def judged(task, folder: Path, makes: list[Make]) -> list[list[Outcome]]:
    """Outcomes of one submission, for each of `makes` those of its data sets: they are dealt out in turn."""
    view = task.lay_out(task.rounds("select")[0], folder / "view", "salt")
    rows = read_csv(view.path / "questions.csv")
    (folder / "work" / "denoised").mkdir(parents=True)
    for row, make in zip(rows, cycle(makes), strict=False):
        train = sparse.load_npz(view.path / row["counts"]).toarray()
        held_out = sparse.load_npz(task._source / task._units.answers[view.keys[row["id"]]]).toarray()
        file = folder / "work" / "denoised" / f"{Path(row['counts']).stem}.npy"
        written = make(train, held_out)
        if isinstance(written, bytes):
            file.write_bytes(written)
        elif written is not None:
            np.save(file, written)
    task.collect(folder / "work", folder / "kept")
    found = {outcome.unit: outcome for outcome in task.verify(folder / "kept", view.keys, KIND.NO_ANSWER)}
    in_turn = [found[view.keys[row["id"]]] for row in rows]
    return [in_turn[number :: len(makes)] for number in range(len(makes))]


def test_the_text_and_the_metric_say_that_the_counts_are_simulated(task, tmp_path):
    view = task.lay_out(task.rounds("gate")[0], tmp_path / "view", "salt")
    assert "The counts are **simulated**" in (view.path / "task.md").read_text(encoding="utf-8")
    assert task.metric == "simulated_mse_norm"
    assert "**simulated**" in (TASK / "README.md").read_text(encoding="utf-8")


def test_no_view_before_the_test_shows_a_held_out_molecule(task, tmp_path):
    view = task.lay_out(task.rounds("select")[0], tmp_path / "view", "salt")
    assert sorted(path.name for path in view.path.iterdir()) == ["counts", "questions.csv", "task.md"]
    assert len(list((view.path / "counts").iterdir())) == len(view.keys) == 30


def between(train, held_out):
    return (train / 9 + held_out) * 0.001


def profile(train, _):
    """One for all cells: what a gene's squared share is on average."""
    shares = (train / train.sum(axis=1, keepdims=True)) ** 2
    return np.tile(shares.mean(axis=0), (len(train), 1))


TRIVIAL: dict[str, Make] = {
    "the counts": lambda train, _: train,
    "the counts, small": lambda train, _: train * 0.001,
    "a constant": lambda train, _: np.full(train.shape, 1e-12),
    "one gene": lambda train, _: np.eye(1, train.shape[1]).repeat(len(train), axis=0) * 0.001,
    "the mean cell": lambda train, _: train.sum(axis=1, keepdims=True) * train.mean(axis=0) * 1e-4,
    "one profile": profile,
    "squares of the counts": lambda train, _: (train / train.max()) ** 2,
}
ANSWERS: dict[str, Make] = {
    "the held-out molecules": lambda _, held_out: held_out,
    "between the two": between,
    "too much where none is held out": lambda train, held_out: held_out + 0.3 * train,
    **TRIVIAL,
}


@pytest.fixture(scope="module")
def outcomes(task, tmp_path_factory):
    """By name of the answer: each on three data sets."""
    found = judged(task, tmp_path_factory.mktemp("answers"), list(ANSWERS.values()))
    assert {len(some) for some in found} == {3}
    return dict(zip(ANSWERS, found, strict=True))


def kinds(outcomes):
    return {outcome.kind for outcome in outcomes}


def test_held_out_molecules_themselves_are_worth_1(outcomes):
    assert [outcome.value for outcome in outcomes["the held-out molecules"]] == pytest.approx([1, 1, 1])


@pytest.mark.parametrize("trivial", TRIVIAL)
def test_what_needs_no_denoising_is_worth_nothing(outcomes, trivial):
    assert kinds(outcomes[trivial]) == {KIND.WRONG}
    assert {outcome.value for outcome in outcomes[trivial]} == {0.0}


def test_squares_of_the_counts_are_refused_though_they_make_the_squared_error_smaller_than_magic_does(outcomes):
    for outcome in outcomes["squares of the counts"]:
        assert float(outcome.prediction.split()[1]) > 0.3
        assert "its own counts and the mean cell say too" in outcome.prediction


def test_between_the_two_is_partial_credit_and_the_figures_are_told(outcomes):
    found = outcomes["between the two"]
    assert kinds(found) == {KIND.PARTIAL}
    assert all(0.1 < outcome.value < 1 for outcome in found)
    assert "mse_norm 0." in found[0].prediction and "poisson_norm 0.9" in found[0].prediction


def test_expression_where_none_is_held_out_fails_the_guard_and_the_reason_is_told(outcomes):
    found = outcomes["too much where none is held out"]
    assert kinds(found) == {KIND.WRONG} and {outcome.value for outcome in found} == {0.0}
    assert all("poisson_norm must be 0.97 or more" in outcome.prediction for outcome in found)


class Bomb:
    def __reduce__(self):
        return (Path.touch, (UNPICKLED,))


UNPICKLED = Path(tempfile.gettempdir()) / f"unpickled_by_the_judge_of_{os.getpid()}"
HEADER = b"\x93NUMPY\x01\x00v\x00"
HUGE = (
    HEADER + b"{'descr': '<f8', 'fortran_order': False, 'shape': (10000000000, 10000000000), }".ljust(0x76 - 1) + b"\n"
)


def objects(*_) -> bytes:
    """An .npy file of objects, which numpy would unpickle if it were allowed to."""
    bombs = np.empty((2, 2), dtype=object)
    bombs[:] = Bomb()
    file = io.BytesIO()
    np.save(file, bombs, allow_pickle=True)
    return file.getvalue()


FORMS: list[tuple[Make, str]] = [  # what is written, and what is said about it
    (lambda t, _: np.where(t > 0, np.nan, 0.0), "not all values are finite"),
    (lambda t, _: np.full(t.shape, -np.inf), "not all values are finite"),
    (lambda t, _: t - 0.5, "a value is below 0"),
    (lambda t, _: t * 1e7, "a value is above"),
    (lambda t, _: np.zeros(t.shape), "a cell has no expression"),
    (lambda t, _: t[:, :-1], "has the shape"),
    (lambda t, _: t.ravel(), "has the shape"),
    (lambda t, _: np.zeros((0, 0)), "has the shape"),
    (lambda t, _: t.astype(np.complex64), "no plain numbers"),
    (lambda t, _: t.astype("U1"), "no plain numbers"),
    (lambda t, _: b"", "no .npy file"),
    (lambda t, _: b"PK\x03\x04 no archive", "no .npy file"),
    (lambda t, _: HUGE, "no .npy file"),
    (lambda t, _: HEADER + b"\xff" * 200, "no .npy file"),
    (lambda t, _: pickle.dumps(Bomb()), "no .npy file"),
    (objects, "no .npy file"),
    (lambda t, _: bytes(9 * t.size), "is larger than"),
]


def test_what_is_no_matrix_of_the_right_form_is_a_typed_failure_and_harms_no_other(task, tmp_path):
    *found, sound, nothing = judged(task, tmp_path, [*(make for make, _ in FORMS), between, lambda *_: None])
    for outcomes, (_, said) in zip(found, FORMS, strict=True):
        assert kinds(outcomes) == {KIND.INVALID_FORMAT}, said
        assert all(said in outcome.prediction for outcome in outcomes), said
    assert kinds(sound) == {KIND.PARTIAL}
    assert kinds(nothing) == {KIND.NO_ANSWER}
    assert not UNPICKLED.exists()


def test_parts_of_a_matrix_are_worth_its_figure_on_average():
    rng = np.random.default_rng(0)
    train, held_out = rng.poisson(2, (203, 50)), rng.poisson(0.2, (203, 50))
    found = VERIFIER.reached(train, held_out, train + 3 * held_out)
    shares = [VERIFIER.share(found, f"{number}/20") for number in range(1, 21)]
    assert np.mean(shares) == pytest.approx(found.mse_norm, abs=1e-12)
    assert len(set(shares)) == 20
