"""Small task folders and specs for the tests of this room."""

import csv
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from sia_runner.config.task import TableTaskConfig as Spec
from sia_runner.tasks.table import TableTask


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(header)
        writer.writerows(rows)
    return path


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def spec(folder: Path, **changes: Any) -> Spec:
    """A task over plain files of `folder`; `changes` replace whole sections."""
    (folder / "task.md").exists() or (folder / "task.md").write_text("# A task\n")
    data: dict[str, Any] = {
        "name": "example",
        "_target_": "sia_runner.tasks.table.TableTask",
        "dir": str(folder),
        "data": {"labelled": "labelled.csv"},
        "metric": {"name": "accuracy"},
        "splits": {"dev": 0.1, "val": 0.2, "test": 0.2},
    }
    return Spec.model_validate(data | changes)


def small_task(
    folder: Path, rows: Iterable[Sequence[object]] = (), *, split_seed: int = 0, own_test: bool = False, **changes: Any
) -> TableTask:
    """200 rows of two classes unless `rows` are given; with `own_test`, 40 test questions that share their ids."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = list(rows) or [(i, f"text {i}", "ab"[i % 2]) for i in range(200)]
    write_csv(folder / "labelled.csv", ("id", "text", "label"), rows)
    if own_test:
        write_csv(folder / "test.csv", ("id", "text"), [(i, f"test text {i}") for i in range(40)])
        write_csv(folder / "answers.csv", ("id", "label"), [(i, "ab"[i % 2]) for i in range(40)])
        files = {"labelled": "labelled.csv", "test": "test.csv", "answers": "answers.csv"}
        changes = {"data": files, "splits": {"dev": 0.1, "val": 0.2}} | changes
    return TableTask(spec(folder, **changes), split_seed, folder / "cache")


def submit(folder: Path, text: str | bytes, name: str = "submission.csv") -> Path:
    """A kept submission folder with one file."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(text.encode() if isinstance(text, str) else text)
    return folder


def keys(task: TableTask, split: str = "dev") -> Mapping[str, str]:
    """Any ids will do for verify: q0, q1, ..."""
    return {f"q{n}": unit for n, unit in enumerate(task.splits()[split])}


def ends(pid: int) -> bool:
    """Is the process gone (or a zombie) within two seconds?"""
    for _ in range(100):
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except FileNotFoundError:
            return True
        if state == "Z":
            return True
        time.sleep(0.02)
    return False
