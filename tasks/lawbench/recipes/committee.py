"""Two stacked ridge regressions and a small neural network answer together."""

import argparse
import csv
import re
import warnings
from pathlib import Path

import numpy as np
from scipy.linalg import cho_factor, cho_solve
from scipy.linalg.lapack import spotri
from scipy.optimize import minimize
from scipy.sparse import csr_matrix
from scipy.special import log_softmax
from sklearn.exceptions import ConvergenceWarning
from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer
from sklearn.neural_network import MLPClassifier
from sklearn.preprocessing import normalize

NGRAM_MAX = 3
RIDGE = 0.1
PENALTY = 1.0
DIMENSIONS = 800
EPOCHS = 12
NET = 1.0
IDF_POWER = 0.75


def read(path: Path) -> list[dict[str, str]]:
    csv.field_size_limit(2**31 - 1)
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def clean(text: str) -> str:
    """One `0` for each number, one `某` for each masked name. The space in front keeps an empty text a text."""
    text = re.sub(r"\s+", "", text)
    text = re.sub(r"[0-9０-９]+", "0", text)
    return " " + re.sub(r"[一-鿿]0?某[某甲乙丙丁戊0]?", "某", text)


def answer(train: list[dict[str, str]], questions: list[dict[str, str]]) -> list[str]:
    labels, gold = np.unique([row["label"] for row in train], return_inverse=True)
    texts = [clean(row["text"]) for row in train + questions]
    # Questions are compared with one another too: without their charges, they show in which ways texts differ.
    views = [similarity(view(texts), len(texts)) for view in (weighted, counted)]
    places = directions((views[0] + views[1]) / 2)
    known, asked = zip(*(left_out(view[:, : len(train)], gold) for view in views), strict=True)
    scores = log_softmax(stacked(list(known), gold, list(asked)), axis=1)
    scores += NET * net(places[: len(train)], gold, places[len(train) :])
    return list(labels[scores.argmax(axis=1)])


def weighted(texts: list[str]) -> csr_matrix:
    """Which runs a text has, how often does not matter; rare runs weigh more."""
    counter = CountVectorizer(analyzer="char", ngram_range=(1, NGRAM_MAX), min_df=2, binary=True, dtype=np.float32)
    present = counter.fit_transform(texts)
    share = np.asarray(present.mean(axis=0)).ravel()
    return normalize(present.multiply((1 - np.log(share)) ** IDF_POWER).tocsr())


def counted(texts: list[str]) -> csr_matrix:
    """The other view: short runs only, and a run that comes again weighs more."""
    return TfidfVectorizer(
        analyzer="char", ngram_range=(1, 2), min_df=2, sublinear_tf=True, dtype=np.float32
    ).fit_transform(texts)


def similarity(features: csr_matrix, known: int) -> np.ndarray:
    """Inner product of every text with each of the first `known` texts. Runs that are common are multiplied densely:
    a few thousand of them make most of the products of a sparse multiplication."""
    common = np.diff(features.tocsc().indptr) > 0.02 * features.shape[0]
    dense, rare = features[:, common].toarray(), features[:, ~common]
    return dense @ dense[:known].T + (rare @ rare[:known].T).toarray()


def left_out(similar: np.ndarray, gold: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Ridge scores (texts x charges): of each known text by a model of all others, and of each asked text.

    The first need no second fit: what leaving a text out changes stands on the diagonal of the inverse.
    """
    known, asked = similar[: len(gold)], similar[len(gold) :]
    known[np.diag_indices_from(known)] += RIDGE
    targets = np.where(gold[:, None] == np.arange(gold.max() + 1), 1, -1).astype(np.float32)
    factor = cho_factor(known, lower=True)
    weights = cho_solve(factor, targets)
    inverse, _ = spotri(factor[0], lower=1)
    return targets - weights / np.diag(inverse)[:, None], asked @ weights


def stacked(known: list[np.ndarray], gold: np.ndarray, asked: list[np.ndarray]) -> np.ndarray:
    """Logits of the asked texts: softmax regression from the scores of all views to the charge.

    Each view's own score for a charge counts freely; what the score for another charge says costs PENALTY.
    """
    columns, mean = np.hstack(known), np.hstack(known).mean(axis=0)
    rows, charges, views = np.arange(len(gold)), known[0].shape[1], len(known)

    def logits(parameters: np.ndarray, own: list[np.ndarray], every: np.ndarray) -> np.ndarray:
        other = parameters[views:].reshape(-1, charges).astype(np.float32)
        scores = (every - mean) @ other
        for weight, view in zip(parameters[:views], own, strict=True):
            scores += np.float32(weight) * view
        return scores

    def loss(parameters: np.ndarray) -> tuple[float, np.ndarray]:
        chances = logits(parameters, known, columns)
        chances = np.exp(chances - chances.max(axis=1, keepdims=True))
        chances /= chances.sum(axis=1, keepdims=True)
        surprise = -np.log(np.maximum(chances[rows, gold], 1e-30)).sum(dtype=float)
        chances[rows, gold] -= 1
        slope = [float((chances * view).sum()) for view in known]
        pull = ((columns - mean).T @ chances).ravel() + PENALTY * parameters[views:]
        return surprise + PENALTY / 2 * float(parameters[views:] @ parameters[views:]), np.concatenate([slope, pull])

    start = np.concatenate([np.full(views, 12 / views), np.zeros(columns.shape[1] * charges)])
    found = minimize(loss, start, jac=True, method="L-BFGS-B", options={"maxiter": 60})
    return logits(found.x, asked, np.hstack(asked))


def directions(similar: np.ndarray) -> np.ndarray:
    """Coordinates of every text along the main directions in which texts differ, found by subspace iteration."""
    width = min(DIMENSIONS, len(similar))
    base = np.random.default_rng(0).standard_normal((len(similar), min(width + 100, len(similar)))).astype(np.float32)
    for _ in range(2):
        base, _ = np.linalg.qr(similar @ base)
    strengths, turn = np.linalg.eigh(base.T @ (similar @ base))
    # The quarter power brings weak directions nearer to the strong ones, which say only how formal a text is.
    coordinates = (base @ turn[:, -width:]) * np.maximum(strengths[-width:], 1e-6) ** 0.25
    return 0.2 * np.sqrt(width) * normalize(coordinates)


def net(known: np.ndarray, gold: np.ndarray, asked: np.ndarray) -> np.ndarray:
    """Log chances of the asked texts by a network with one hidden layer."""
    model = MLPClassifier(
        (512,), activation="tanh", alpha=0.1, batch_size=min(64, len(gold)), max_iter=EPOCHS, random_state=0
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # stopping early is meant
        model.fit(known, gold)
    return np.log(model.predict_proba(asked) + 1e-6)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--dataset_dir", type=Path, required=True)
    parser.add_argument("--working_dir", type=Path, required=True)
    args = parser.parse_args()
    train, questions = read(args.dataset_dir / "train.csv"), read(args.dataset_dir / "questions.csv")
    answers = zip((row["id"] for row in questions), answer(train, questions), strict=True)
    with (args.working_dir / "submission.csv").open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream).writerows([("id", "label"), *answers])


if __name__ == "__main__":
    main()
