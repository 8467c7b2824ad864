"""What a test must know of a task and the experiment must not show: gold answers, and the split of each question."""

import csv
import json
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from sia_runner.config.experiment import check_experiment
from sia_runner.config.task import TableTaskConfig
from sia_runner.experiment.context import Components
from sia_runner.system import bundled_folder, cache_dir
from sia_runner.tasks.data import prepared_folder
from tests.scripts.serving import use

PLAIN = re.compile(r"[]A-Za-z0-9 ,.?/():=[-]{20,}")  # looks the same however often it was put into JSON


@dataclass(frozen=True, slots=True)
class Row:
    unit: str
    split: str
    question: str
    gold: str


def rows(overrides: list[str]) -> list[Row]:
    """All questions of the task that these overrides choose. Raises TaskError where its data cannot be had."""
    folder = str(bundled_folder("conf"))
    if overrides[0] == "--config-dir":
        overrides = [f"hydra.searchpath=[file://{overrides[1]}]", *overrides[2:]]
    overrides = [*overrides, *use("http://127.0.0.1:9/v1")]  # some tasks are refused without a provider
    with initialize_config_dir(version_base="1.3", config_dir=folder):
        config = check_experiment(OmegaConf.to_container(compose("config", overrides), resolve=True))  # type: ignore[arg-type]
    assert isinstance(config.task, TableTaskConfig)
    task = Components(config).task
    task.prepare(lambda _: None)
    source = prepared_folder(task.name, config.task.data, task.folder, cache_dir(), lambda _: None)
    split_of = {unit: split for split, units in task.splits().items() for unit in units}
    columns = config.task.columns
    with (source / config.task.data.labelled).open(encoding="utf-8", newline="") as stream:
        return [
            Row(row[columns.id], split_of[row[columns.id]], _question(row, columns), row[columns.answer])
            for row in csv.DictReader(stream)
        ]


def _question(row, columns) -> str:
    """The longest cell: the question's own text."""
    return max((cell for name, cell in row.items() if name not in (columns.id, columns.answer)), key=len)


def write_gold(path: Path, known: list[Row]) -> Path:
    path.write_text(json.dumps({row.question: row.gold for row in known}), encoding="utf-8")
    return path


def secrets(known: list[Row]) -> list[str]:
    """Texts that may never reach a proposer: of each val and test question a part that no other question has, and its
    answer where that is long enough to be recognised."""
    parts = {row.unit: set(PLAIN.findall(row.question)) for row in known}
    common = Counter(part for found in parts.values() for part in found)
    kept_back = [row for row in known if row.split in ("val", "test")]
    own = [max((part for part in parts[row.unit] if common[part] == 1), key=len, default="") for row in kept_back]
    return [text for text in own if text] + [row.gold for row in kept_back if len(row.gold) >= 10]
