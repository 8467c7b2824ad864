"""Makes a table task's files of a competition that MLE-bench prepared: PREPARED/{public,private}.

labelled.csv  id, columns of the questions, answer       from public/ (a seeded sample where there are too many rows)
test.csv, answers.csv                                    from public/ and private/
competition.json, about.md                               what is asked for, and the competition's own description
"""

import argparse
import csv
import json
import os
import random
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

FILE = "file"  # the column that holds a question's picture
ROW = "row"  # id of the rows of a competition that gives them none
KINDS = {"auc": "probability", "log_loss": "probabilities", "rmse": "number", "quadratic_kappa": "rating"}


def main() -> None:
    parser = argparse.ArgumentParser()
    for name in ("source", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    for name in ("verifier", "id", "answer", "train", "test", "sample", "answers", "train_files", "test_files"):
        parser.add_argument(f"--{name}", default="")
    parser.add_argument("--most_rows", type=int, required=True)
    convert(parser.parse_args())


def convert(args: argparse.Namespace) -> None:
    public, private = args.source / "public", args.source / "private"
    said = []
    test = read(public / (args.test or args.sample))
    columns = [name for name in test.columns if name != args.id] if args.test else []
    train = read(public / args.train, columns, [args.id, args.answer], args.most_rows)
    if train.left_out:
        said.append(
            f"`{args.train}` has {train.left_out + len(train.rows):,} rows; a seeded sample of "
            f"{len(train.rows):,} of them is used."
        )
    head, files = [args.id or ROW], [FILE] if args.train_files else []
    answer = (lambda row: exact(row[args.answer])) if args.verifier == "auc" else (lambda row: row[args.answer])
    known = [row for row in train.rows if row[args.answer].strip()]
    if len(known) < len(train.rows):
        said.append(f"{len(train.rows) - len(known):,} rows of `{args.train}` without an answer are left out.")

    def line(place: int, row: dict[str, str], pattern: str, folder: str) -> list[str]:
        unit = row[args.id] if args.id else str(place)
        shown = [linked(public / pattern.format(id=unit), args.out, folder)] if pattern else []
        return [unit, *(row[name] for name in columns), *shown]

    write(
        args.out / "labelled.csv",
        [*head, *columns, *files, args.answer],
        ([*line(place, row, args.train_files, "train"), answer(row)] for place, row in enumerate(known)),
    )
    asked = [line(place, row, args.test_files, "test") for place, row in enumerate(test.rows)]
    write(args.out / "test.csv", [*head, *columns, *files], asked)
    gold = gold_of(read(private / args.answers), args.id, args.answer)
    pairs = [(row[0], gold[place if not args.id else row[0]]) for place, row in enumerate(asked)]
    if args.verifier == "auc":
        pairs = [(unit, exact(truth)) for unit, truth in pairs]
    write(args.out / "answers.csv", [*head, args.answer], pairs)
    describe(args, public, said)


class Table:
    def __init__(self, columns: Sequence[str], rows: list[dict[str, str]], left_out: int = 0) -> None:
        self.columns, self.rows, self.left_out = columns, rows, left_out


def read(path: Path, wanted: Sequence[str] = (), more: Sequence[str] = (), most: int | None = None) -> Table:
    """CSV, or a JSON list of records. Of columns only those `wanted` (all where none is named) and `more`; of rows at
    most `most`, drawn by a fixed seed, in their order."""
    if not path.is_file():
        sys.exit(f"{path} is not there: not the layout that mlebench prepares")
    chosen = None
    left_out = 0
    if most is not None:
        count = sum(1 for _ in records(path))
        if count > most:
            chosen, left_out = set(random.Random(0).sample(range(count), most)), count - most
    columns: list[str] = []
    rows: list[dict[str, str]] = []
    for place, record in enumerate(records(path)):
        if not columns:
            columns = [name for name in record if not wanted or name in (*wanted, *more)]
            missing = [name for name in (*wanted, *more) if name and name not in record]
            if missing:
                sys.exit(f"{path} has no column {missing[0]!r}; it has: {', '.join(record)}")
        if chosen is None or place in chosen:
            rows.append({name: record[name] for name in columns})
    if not rows:
        sys.exit(f"{path} has no rows")
    return Table(columns, rows, left_out)


def records(path: Path) -> Iterator[dict[str, str]]:
    if path.suffix == ".json":
        for record in json.loads(path.read_text(encoding="utf-8")):
            yield {name: text(value) for name, value in record.items()}
        return
    csv.field_size_limit(1 << 30)
    with path.open(encoding="utf-8-sig", newline="") as stream:
        for record in csv.DictReader(stream):
            if None in record or None in record.values():
                sys.exit(f"{path}: a row does not have as many cells as the header")
            yield record


def text(value: Any) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def exact(truth: str) -> str:
    """0 or 1, however the file writes it."""
    words = {"true": "1", "false": "0"}
    plain = words.get(truth.strip().lower(), truth)
    try:
        return str(int(float(plain)))
    except ValueError:
        return truth


def gold_of(private: Table, unit: str, answer: str) -> dict[Any, str]:
    """Answer by id, by row where there is none. Where each class has a column, the one that holds a 1."""
    classes = [] if answer in private.columns else [name for name in private.columns if name != unit]
    gold: dict[Any, str] = {}
    for place, row in enumerate(private.rows):
        found = [name for name in classes if float(row[name] or 0) == 1]
        if classes and len(found) != 1:
            sys.exit(f"a private answer is no single class, but {', '.join(found) or 'none'}")
        gold[row[unit] if unit else place] = found[0] if classes else row[answer]
    return gold


def linked(source: Path, out: Path, folder: str) -> str:
    """The file under a name in `out`: a hard link where the file system has them."""
    name = f"{folder}/{source.name}"
    (out / folder).mkdir(exist_ok=True)
    try:
        os.link(source, out / name)
    except FileNotFoundError:
        sys.exit(f"{source} is not there: not the layout that mlebench prepares")
    except OSError:
        shutil.copyfile(source, out / name)
    return name


def write(path: Path, header: Sequence[str], rows: Any) -> None:
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)


def describe(args: argparse.Namespace, public: Path, said: Sequence[str]) -> None:
    sample = read(public / args.sample)
    named = [name for name in sample.columns if name != args.id]
    answers = named if args.verifier == "log_loss" else [args.answer]
    filler = {name: sample.rows[0][name] for name in answers}
    kind = KINDS.get(args.verifier, "class")
    facts = {"id": args.id or ROW, "answer": args.answer, "kind": kind, "columns": answers, "sample": filler}
    (args.out / "competition.json").write_text(json.dumps(facts, indent=1, ensure_ascii=False), encoding="utf-8")
    texts = [public / "description.md", public / "task.md"]  # the second name in sia-agent's task folders
    found = next((path.read_text(encoding="utf-8") for path in texts if path.is_file()), "")
    notes = "".join(f"\n{line}\n" for line in said)
    (args.out / "about.md").write_text(f"{notes}\n{found.rstrip()}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
