"""TF-IDF over runs of characters and a linear support vector machine."""

import argparse
import csv
import re
from pathlib import Path

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.svm import LinearSVC

NGRAM_MAX = 2
BINARY = False
C = 1.0


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
    texts = [clean(row["text"]) for row in train + questions]
    vectorizer = TfidfVectorizer(
        analyzer="char",
        ngram_range=(1, NGRAM_MAX),
        min_df=2,
        binary=BINARY,
        sublinear_tf=True,
        dtype=np.float32,
    )
    features = vectorizer.fit_transform(texts)
    model = LinearSVC(C=C, random_state=0).fit(features[: len(train)], [row["label"] for row in train])
    return list(model.predict(features[len(train) :]))


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
