"""Linear models on what the texts say: TF-IDF of words and of runs of characters, a row's columns read as one text."""

import argparse
import csv
import json
from pathlib import Path

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import make_union

C = 4.0
LONGEST = 4
RARE = 2


def read(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def texts(rows: list[dict[str, str]], left_out: set[str]) -> list[str]:
    """Short cells with their column's name, as one word; "nothing" where a row has no column to read."""
    kept = [{name: cell for name, cell in row.items() if name not in left_out} for row in rows]
    said = [[cell if " " in cell else f"{name}={cell}" for name, cell in row.items()] for row in kept]
    return [" ".join(words) or "nothing" for words in said]


def answers(train: list[str], truths: list[str], new: list[str], asked: dict) -> list[list[object]]:
    """A row of cells for each question."""
    features = make_union(
        TfidfVectorizer(sublinear_tf=True, min_df=RARE),
        TfidfVectorizer(sublinear_tf=True, min_df=RARE, analyzer="char_wb", ngram_range=(1, LONGEST)),
    )
    learned, asked_of = features.fit_transform(train), features.transform(new)
    if asked["kind"] in ("number", "rating"):
        numbers = np.array(truths, dtype=float)
        given = Ridge(alpha=1 / C).fit(learned, numbers).predict(asked_of)
        if asked["kind"] == "rating":
            return [[int(value)] for value in np.clip(np.rint(given), numbers.min(), numbers.max())]
        return [[value] for value in given]
    model = LogisticRegression(C=C, max_iter=300).fit(learned, truths)
    if asked["kind"] == "class":
        return [[name] for name in model.predict(asked_of)]
    shares, place = model.predict_proba(asked_of), {name: at for at, name in enumerate(model.classes_)}
    if asked["kind"] == "probability":
        return [[row[place["1"]]] for row in shares]
    return [[row[place[name]] if name in place else 0.0 for name in asked["columns"]] for row in shares]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--dataset_dir", type=Path, required=True)
    parser.add_argument("--working_dir", type=Path, required=True)
    args = parser.parse_args()
    asked = json.loads((args.dataset_dir / "competition.json").read_text(encoding="utf-8"))
    train, questions = read(args.dataset_dir / "train.csv"), read(args.dataset_dir / "questions.csv")
    left_out = {asked["id"], asked["answer"], "file"}
    cells = answers(texts(train, left_out), [row[asked["answer"]] for row in train], texts(questions, left_out), asked)
    with (args.working_dir / "submission.csv").open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream).writerow([asked["id"], *asked["columns"]])
        csv.writer(stream).writerows(
            [row[asked["id"]], *row_cells] for row, row_cells in zip(questions, cells, strict=True)
        )


if __name__ == "__main__":
    main()
