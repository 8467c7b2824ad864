"""Small competitions in the layout that mlebench prepares: columns, files and formats as its prepare.py writes them."""

import json
import random
from pathlib import Path

from sia_runner.config.task import MlebenchTaskConfig
from sia_runner.tasks.mlebench_task import Mlebench
from tests.tasks.making import write_csv


def spec(folder: Path, competition: str, **changes) -> MlebenchTaskConfig:
    data = {
        "name": "mlebench",
        "_target_": "sia_runner.tasks.mlebench_task.Mlebench",
        "competition": competition,
        "prepared": str(folder),
    }
    return MlebenchTaskConfig.model_validate(data | changes)


def load(folder: Path, competition: str, **changes) -> Mlebench:
    task = Mlebench(spec(folder, competition, **changes), 0, folder / "cache")
    task.prepare(lambda _: None)
    return task


def places(folder: Path, competition: str) -> tuple[Path, Path]:
    """public and private, which are there afterwards; with a description."""
    public, private = (folder / competition / "prepared" / name for name in ("public", "private"))
    for place in (public, private):
        place.mkdir(parents=True)
    (public / "description.md").write_text(f"# About {competition}\n\nPredict it.\n")
    return public, private


def spaceship(folder: Path, rows: int = 120, asked: int = 20) -> None:
    """spaceship-titanic, with the columns that matter here."""
    public, private = places(folder, "spaceship-titanic")
    draw = random.Random(0)
    people = [
        (
            f"{n // 2 + 1:04d}_{n % 2 + 1:02d}",
            draw.choice(["Earth", "Mars", ""]),
            draw.choice([1.5, ""]),
            f"Person {n}",
            n % 3 == 0,
        )
        for n in range(rows + asked)
    ]
    header = ("PassengerId", "HomePlanet", "Age", "Name", "Transported")
    write_csv(public / "train.csv", header, people[:rows])
    write_csv(public / "test.csv", header[:-1], [row[:-1] for row in people[rows:]])
    write_csv(
        public / "sample_submission.csv", ("PassengerId", "Transported"), [(row[0], False) for row in people[rows:]]
    )
    write_csv(private / "test.csv", header, people[rows:])


def spooky(folder: Path) -> None:
    """spooky-author-identification: a class per text, answers and submission one-hot."""
    public, private = places(folder, "spooky-author-identification")
    names = ("EAP", "HPL", "MWS")
    texts = [(f"id{n:05d}", f"text {n}, said {names[n % 3]}", names[n % 3]) for n in range(150)]
    write_csv(public / "train.csv", ("id", "text", "author"), texts[:120])
    write_csv(public / "test.csv", ("id", "text"), [row[:2] for row in texts[120:]])
    hot = [(row[0], *(int(name == row[2]) for name in names)) for row in texts[120:]]
    write_csv(private / "test.csv", ("id", *names), hot)
    write_csv(public / "sample_submission.csv", ("id", *names), [(row[0], 0.4, 0.3, 0.3) for row in texts[120:]])


def leaf(folder: Path) -> None:
    """leaf-classification: classes are known by the sample submission's header alone; ids are numbers."""
    public, private = places(folder, "leaf-classification")
    names = [f"Acer_{n}" for n in range(4)]
    leaves = [(n, n % 4 + 0.1, n / 7, names[n % 4]) for n in range(80)]
    write_csv(
        public / "train.csv", ("id", "species", "margin1", "shape1"), [(r[0], r[3], r[1], r[2]) for r in leaves[:60]]
    )
    write_csv(public / "test.csv", ("id", "margin1", "shape1"), [r[:3] for r in leaves[60:]])
    write_csv(
        private / "test.csv", ("id", *names), [(r[0], *(int(name == r[3]) for name in names)) for r in leaves[60:]]
    )
    write_csv(public / "sample_submission.csv", ("id", *names), [(r[0], *[0.25] * 4) for r in leaves[60:]])


def insults(folder: Path) -> None:
    """detecting-insults-in-social-commentary: no ids, two comments alike, private answers with a column more."""
    public, private = places(folder, "detecting-insults-in-social-commentary")
    said = [(n % 2, "20120618192155Z", f'"comment {n % 97}\\nover lines"') for n in range(130)]
    write_csv(public / "train.csv", ("Insult", "Date", "Comment"), said[:100])
    write_csv(public / "test.csv", ("Date", "Comment"), [row[1:] for row in said[100:]])
    write_csv(
        private / "test.csv", ("Insult", "Date", "Comment", "Usage"), [(*row, "PrivateTest") for row in said[100:]]
    )
    write_csv(
        public / "sample_submission_null.csv", ("Insult", "Date", "Comment"), [(0, *row[1:]) for row in said[100:]]
    )


def taxi(folder: Path, rows: int = 300) -> None:
    """new-york-city-taxi-fare-prediction: labels.csv, fares as numbers."""
    public, private = places(folder, "new-york-city-taxi-fare-prediction")
    rides = [(f"2009-06-15 17:26:{n:02d}.{n:07d}", 5 + n % 13, -73 - n / 999, n % 4 + 1) for n in range(rows + 30)]
    header = ("key", "fare_amount", "pickup_longitude", "passenger_count")
    write_csv(public / "labels.csv", header, rides[:rows])
    write_csv(public / "test.csv", ("key", *header[2:]), [(r[0], *r[2:]) for r in rides[rows:]])
    write_csv(private / "test.csv", header, rides[rows:])
    write_csv(public / "sample_submission.csv", ("key", "fare_amount"), [(r[0], 11.35) for r in rides[rows:]])


def pizza(folder: Path) -> None:
    """random-acts-of-pizza: JSON, the training records with fields that test does not have."""
    public, private = places(folder, "random-acts-of-pizza")
    asked = [
        {
            "request_id": f"t3_{n}",
            "request_text": f"please, {n}",
            "giver": None,
            "subreddits": ["a", "b"],
            "post_was_edited": n % 5,
        }
        for n in range(120)
    ]
    known = [{**one, "requester_received_pizza": n % 2 == 0, "votes": n} for n, one in enumerate(asked[:90])]
    (public / "train.json").write_text(json.dumps(known))
    (public / "test.json").write_text(json.dumps(asked[90:]))
    header = ("request_id", "requester_received_pizza")
    write_csv(private / "test.csv", header, [(one["request_id"], n % 2) for n, one in enumerate(asked[90:])])
    write_csv(public / "sampleSubmission.csv", header, [(one["request_id"], 0) for one in asked[90:]])


def aptos(folder: Path) -> None:
    """aptos2019-blindness-detection: a picture per question, ratings 0 to 4."""
    public, private = places(folder, "aptos2019-blindness-detection")
    eyes = [(f"{n:012x}", n % 5) for n in range(80)]
    for place, some in (("train_images", eyes[:60]), ("test_images", eyes[60:])):
        (public / place).mkdir()
        for name, _ in some:
            (public / place / f"{name}.png").write_bytes(b"\x89PNG " + name.encode())
    header = ("id_code", "diagnosis")
    write_csv(public / "train.csv", header, eyes[:60])
    write_csv(public / "test.csv", ("id_code",), [row[:1] for row in eyes[60:]])
    write_csv(private / "test.csv", header, eyes[60:])
    write_csv(public / "sample_submission.csv", header, [(name, 0) for name, _ in eyes[60:]])


ALL = {
    "spaceship-titanic": spaceship,
    "spooky-author-identification": spooky,
    "leaf-classification": leaf,
    "detecting-insults-in-social-commentary": insults,
    "new-york-city-taxi-fare-prediction": taxi,
    "random-acts-of-pizza": pizza,
    "aptos2019-blindness-detection": aptos,
}
