"""Boosting, three times over, blended with extremely randomised trees; both on repaired records."""

import argparse
import csv
import math
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
from sklearn.ensemble import ExtraTreesClassifier, HistGradientBoostingClassifier

FOREST = 0.3
RATE = 0.05
ROUNDS = 150
LEAVES = 12
MIN_LEAF = 4
ADULT = 13
TREES = 100
SEEDS = 3
SPENDING = ("RoomService", "FoodCourt", "ShoppingMall", "Spa", "VRDeck")
KINDS = ("HomePlanet", "CryoSleep", "Destination", "VIP", "Deck", "Side")


def read(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def number(text: str) -> float:
    """NaN for an empty cell and for anything else that is no finite number."""
    try:
        value = float(text)
    except ValueError:
        return math.nan
    return value if math.isfinite(value) else math.nan


def repaired(rows: list[dict[str, str]]) -> list[dict[str, str]]:
    """Each passenger with Group, Surname, Deck, Place and Side, and gaps filled where the rest leaves no doubt."""
    people = []
    for row in rows:
        deck, place, side = [*row["Cabin"].split("/"), "", ""][:3]
        group, surname = row["PassengerId"].partition("_")[0], row["Name"].rpartition(" ")[2]
        people.append({**row, "Group": group, "Surname": surname, "Deck": deck, "Place": place, "Side": side})
    for person in people:
        if any(number(person[column]) > 0 for column in SPENDING):
            person["CryoSleep"] = person["CryoSleep"] or "False"
        elif person["CryoSleep"] == "True" or number(person["Age"]) < ADULT:
            person.update(dict.fromkeys(SPENDING, "0"))
    ask_around(people, "Group", ["HomePlanet", "Surname", "Deck", "Place", "Side"])
    ask_around(people, "Surname", ["HomePlanet"])
    return people


def ask_around(people: list[dict[str, str]], tie: str, columns: list[str]) -> None:
    """Fill empty cells with what most of those say who share the value of `tie`."""
    said: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    for person in people:
        for column in columns:
            if person[tie] and person[column]:
                said[person[tie], column][person[column]] += 1
    for person in people:
        for column in columns:
            if not person[column] and (person[tie], column) in said:
                person[column] = said[person[tie], column].most_common(1)[0][0]


def table(rows: list[dict[str, str]]) -> tuple[np.ndarray, np.ndarray]:
    """For each passenger: numbers (spending, its sum, age, cabin number, size of the group), and codes of the KINDS."""
    people = repaired(rows)
    spent = np.array([[number(person[column]) for column in SPENDING] for person in people])
    sizes = Counter(person["Group"] for person in people)
    others = [[number(person["Age"]), number(person["Place"]), sizes[person["Group"]]] for person in people]
    codes = [np.unique([person[kind] for person in people], return_inverse=True)[1] for kind in KINDS]
    return np.column_stack([spent, np.nansum(spent, axis=1), np.array(others)]), np.column_stack(codes)


def boosting(seed: int) -> HistGradientBoostingClassifier:
    return HistGradientBoostingClassifier(
        learning_rate=RATE,
        max_iter=ROUNDS,
        max_leaf_nodes=LEAVES,
        max_features=0.3,
        l2_regularization=1.0,
        categorical_features=list(range(len(KINDS))),
        early_stopping=False,
        random_state=seed,
    )


def answer(train: list[dict[str, str]], questions: list[dict[str, str]]) -> np.ndarray:
    numbers, codes = table(train + questions)
    gold = [row["Transported"] for row in train]
    as_codes = np.hstack([codes, numbers])
    one_hot = np.hstack([np.nan_to_num(numbers, nan=-1), *(column[:, None] == np.unique(column) for column in codes.T)])
    forest = ExtraTreesClassifier(TREES, min_samples_leaf=MIN_LEAF, max_features=0.5, random_state=0)
    chance = FOREST * forest.fit(one_hot[: len(train)], gold).predict_proba(one_hot[len(train) :])
    for seed in range(SEEDS):
        model = boosting(seed).fit(as_codes[: len(train)], gold)
        chance += (1 - FOREST) / SEEDS * model.predict_proba(as_codes[len(train) :])
    return forest.classes_[chance.argmax(axis=1)]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--dataset_dir", type=Path, required=True)
    parser.add_argument("--working_dir", type=Path, required=True)
    args = parser.parse_args()
    train, questions = read(args.dataset_dir / "train.csv"), read(args.dataset_dir / "questions.csv")
    answers = zip((row["PassengerId"] for row in questions), answer(train, questions), strict=True)
    with (args.working_dir / "submission.csv").open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream).writerows([("PassengerId", "Transported"), *answers])


if __name__ == "__main__":
    main()
