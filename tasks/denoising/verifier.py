"""The verifier of denoised matrices, by held-out molecules. Submissions are hostile: no pickle, bounded sizes."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from beyond import LEAST_BEYOND, beyond
from open_problems import LEAST_POISSON, Reached, fault, reached
from scipy import sparse

from sia_runner.records import Outcome, OutcomeKind

HEADER_BYTES = 4096
FOLDER = "denoised"
ROUNDING = 1e-9  # the train molecules scaled down reach 1e-16, not 0


@dataclass(frozen=True, slots=True)
class Found:
    """The metrics of a matrix."""

    reached: Reached
    beyond: float  # own counts and mean cell


Judged = Found | str  # or why it cannot be judged


class CannotReadError(Exception):
    """The file holds no matrix of the required shape; the message says why in a few words."""


def verify(submission: Path, answers: Mapping[str, str], questions: Mapping[str, Mapping[str, str]]) -> list[Outcome]:
    """Return one outcome per part of a matrix that was denoised. `answers`: files of held-out molecules."""
    judged: dict[str, Judged] = {}
    outcomes = []
    for unit, held_out in answers.items():
        question = questions[unit]
        file = submission / FOLDER / PurePosixPath(question["counts.view"]).with_suffix(".npy").name
        if not file.is_file():
            continue
        if file.name not in judged:
            judged[file.name] = judge(file, counts(question["counts"]), counts(held_out))
        outcomes.append(outcome(unit, judged[file.name], question["part"]))
    return outcomes


def judge(file: Path, train_cg: np.ndarray, held_out_cg: np.ndarray) -> Judged:
    """Return the metrics of a file, or why it cannot be judged."""
    try:
        denoised_cg = matrix(file, train_cg.shape)
    except CannotReadError as error:
        return str(error)
    wrong = fault(train_cg, denoised_cg)
    if wrong:
        return wrong
    return Found(reached(train_cg, held_out_cg, denoised_cg), beyond(train_cg, held_out_cg, denoised_cg))


def outcome(unit: str, metrics: Judged, part: str) -> Outcome:
    """Return the outcome of one part, whose value is the mse_norm of the part.

    The mean over all parts of a matrix is its mse_norm; not below 0 for a matrix as a whole.
    """
    if isinstance(metrics, str):
        return Outcome(unit, OutcomeKind.INVALID_FORMAT, 0.0, f"({metrics})")
    values = metrics.reached
    figures = f"mse_norm {values.mse_norm:.4f} (of zeros {values.empty:.4f}), poisson_norm {values.poisson_norm:.4f}"
    figures += f", beyond own counts {metrics.beyond:.3f}"
    reason = refused(metrics)
    if reason:
        return Outcome(unit, OutcomeKind.WRONG, 0.0, f"{figures} ({reason})")
    return Outcome(unit, OutcomeKind.PARTIAL, share(values, part), figures)


def refused(metrics: Found) -> str:
    """Return why the answer is worth nothing; empty where it is worth something."""
    if not metrics.reached.poisson_norm >= LEAST_POISSON:
        return f"poisson_norm must be {LEAST_POISSON} or more"
    if metrics.reached.mse_norm <= ROUNDING:
        return "no better than the train molecules"
    if not metrics.beyond >= LEAST_BEYOND:
        return f"what it says of a cell, its own counts and the mean cell say too: {LEAST_BEYOND} or more is wanted"
    return ""


def share(reached_metrics: Reached, part: str) -> float:
    """Return the gain of part k/n: the cells k-1, k-1+n, k-1+2n, ... The sum over parts counts each cell once."""
    number, parts = map(int, part.split("/"))
    return float(reached_metrics.gain_c[number - 1 :: parts].sum()) * parts / len(reached_metrics.gain_c)


def counts(path: str) -> np.ndarray:
    """Load a count matrix as a dense array."""
    return sparse.load_npz(path).toarray()


def matrix(file: Path, shape: tuple[int, ...]) -> np.ndarray:
    """Map a matrix and check it before its content is read. Raises CannotReadError."""
    if file.stat().st_size > 8 * shape[0] * shape[1] + HEADER_BYTES:
        raise CannotReadError(f"{file.name} is larger than {shape[0]} x {shape[1]} numbers of 8 bytes")
    try:
        array = np.load(file, mmap_mode="r", allow_pickle=False)
    except Exception as error:
        raise CannotReadError(f"{file.name} is no .npy file of numbers") from error
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "fiu":
        raise CannotReadError(f"{file.name} holds no plain numbers")
    if array.shape != shape:
        raise CannotReadError(f"{file.name} has the shape {array.shape}; its counts have {shape}")
    return np.asarray(array, dtype=np.float64)
