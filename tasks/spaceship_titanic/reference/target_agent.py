"""The plain start: logistic regression on the six columns that are numbers, as they stand.

Naive on purpose. An empty cell counts as 0; planets, cabins, cryosleep and travelling companions are not looked at.
Improving on that is what the experiment is about.
"""

import argparse
import csv
from pathlib import Path

from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

COLUMNS = ("Age", "RoomService", "FoodCourt", "ShoppingMall", "Spa", "VRDeck")


def read(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def numbers(rows: list[dict[str, str]]) -> list[list[float]]:
    return [[float(row[column] or 0) for column in COLUMNS] for row in rows]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--dataset_dir", type=Path, required=True)
    parser.add_argument("--working_dir", type=Path, required=True)
    args = parser.parse_args()
    train, questions = read(args.dataset_dir / "train.csv"), read(args.dataset_dir / "questions.csv")
    model = make_pipeline(StandardScaler(), LogisticRegression())
    model.fit(numbers(train), [row["Transported"] for row in train])
    answers = zip((row["PassengerId"] for row in questions), model.predict(numbers(questions)), strict=True)
    with (args.working_dir / "submission.csv").open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream).writerows([("PassengerId", "Transported"), *answers])


if __name__ == "__main__":
    main()
