"""A small task of the tests' own: each riddle has an answer that stands nowhere else, so that a leak can be found."""

import csv
import hashlib
import json
from pathlib import Path

from tests.scripts.harnesses import NAIVE, harness

COUNT = 60
TASK = """# {comment} Made by a test.
name: {name}
_target_: sia_runner.tasks.table.TableTask
dir: {folder}
data: {{labelled: labelled.csv}}
columns: {{answer: answer}}
metric: {{name: accuracy, verifier: exact_match}}
splits: {{dev: 0.2, val: 0.4, test: 0.4, rollout: 0, stratify: false}}
gate: {{questions: 4}}
limits: {{run: 60, gate: 30, verify: 20}}
"""
TOLD = "Each question names a bird by its ring. Answer with the word that the bird says, in `answer`.\n"


def riddles(count: int = COUNT) -> dict[str, str]:
    """Question -> answer."""
    words = [hashlib.sha256(f"riddle {k}".encode()).hexdigest()[:12] for k in range(count)]
    return {f"What does the bird with ring {7000 + 13 * k} say?": f"kiwi{word}" for k, word in enumerate(words)}


def make(folder: Path, count: int = COUNT, reference: str = harness(NAIVE)) -> list[str]:
    """Lay out the task and its YAML in `folder`; returns the overrides that choose it."""
    task, conf = folder / "riddles", folder / "conf" / "task"
    (task / "reference").mkdir(parents=True)
    conf.mkdir(parents=True)
    (task / "task.md").write_text(TOLD)
    (task / "reference" / "target_agent.py").write_text(reference)
    with (task / "labelled.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(("id", "question", "answer"))
        writer.writerows((f"r{k}", *pair) for k, pair in enumerate(riddles(count).items()))
    (conf / "riddles.yaml").write_text(TASK.format(comment="Birds and words.", name="riddles", folder=task))
    return ["--config-dir", str(conf.parent), "task=riddles"]


def write_gold(path: Path, count: int = COUNT) -> Path:
    path.write_text(json.dumps(riddles(count)))
    return path
