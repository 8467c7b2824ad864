"""Judges denoised matrices by held-out molecules. What a harness wrote is hostile: no pickle, bounded sizes."""

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
    reached: Reached
    beyond: float  # own counts and mean cell


Judged = Found | str  # or why it cannot be judged


class CannotReadError(Exception):
    """The file holds no matrix of the wanted shape; the message says why in a few words."""


def verify(submission: Path, answers: Mapping[str, str], questions: Mapping[str, Mapping[str, str]]) -> list[Outcome]:
    """One outcome per part of a matrix that was denoised. `answers`: files of held-out molecules."""
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
    try:
        denoised_cg = matrix(file, train_cg.shape)
    except CannotReadError as error:
        return str(error)
    wrong = fault(train_cg, denoised_cg)
    if wrong:
        return wrong
    return Found(reached(train_cg, held_out_cg, denoised_cg), beyond(train_cg, held_out_cg, denoised_cg))


def outcome(unit: str, found: Judged, part: str) -> Outcome:
    """The value is mse_norm of the part, so that the mean over all parts of a matrix is its mse_norm; not below 0 for a
    matrix as a whole."""
    if isinstance(found, str):
        return Outcome(unit, OutcomeKind.INVALID_FORMAT, 0.0, f"({found})")
    got = found.reached
    figures = f"mse_norm {got.mse_norm:.4f} (of zeros {got.empty:.4f}), poisson_norm {got.poisson_norm:.4f}"
    figures += f", beyond own counts {found.beyond:.3f}"
    why = refused(found)
    if why:
        return Outcome(unit, OutcomeKind.WRONG, 0.0, f"{figures} ({why})")
    return Outcome(unit, OutcomeKind.PARTIAL, share(got, part), figures)


def refused(found: Found) -> str:
    """Why the answer is worth nothing; empty where it is worth something."""
    if not found.reached.poisson_norm >= LEAST_POISSON:
        return f"poisson_norm must be {LEAST_POISSON} or more"
    if found.reached.mse_norm <= ROUNDING:
        return "no better than the train molecules"
    if not found.beyond >= LEAST_BEYOND:
        return f"what it says of a cell, its own counts and the mean cell say too: {LEAST_BEYOND} or more is wanted"
    return ""


def share(found: Reached, part: str) -> float:
    """Of part k/n: the cells k-1, k-1+n, k-1+2n, ... The sum over parts counts each cell once."""
    number, parts = map(int, part.split("/"))
    return float(found.gain_c[number - 1 :: parts].sum()) * parts / len(found.gain_c)


def counts(path: str) -> np.ndarray:
    return sparse.load_npz(path).toarray()


def matrix(file: Path, shape: tuple[int, ...]) -> np.ndarray:
    """Raises CannotReadError. Nothing is read before the header fits: mapped, not loaded."""
    if file.stat().st_size > 8 * shape[0] * shape[1] + HEADER_BYTES:
        raise CannotReadError(f"{file.name} is larger than {shape[0]} x {shape[1]} numbers of 8 bytes")
    try:
        found = np.load(file, mmap_mode="r", allow_pickle=False)
    except Exception as error:
        raise CannotReadError(f"{file.name} is no .npy file of numbers") from error
    if not isinstance(found, np.ndarray) or found.dtype.kind not in "fiu":
        raise CannotReadError(f"{file.name} holds no plain numbers")
    if found.shape != shape:
        raise CannotReadError(f"{file.name} has the shape {found.shape}; its counts have {shape}")
    return np.asarray(found, dtype=np.float64)
