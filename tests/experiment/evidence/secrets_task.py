"""A task in which every gold answer is a text of its own, so that a leaked one can be found by searching for it."""

import csv
import hashlib
from pathlib import Path

ROWS = 120
YAML = """\
# Every answer is unique: for tests that search for leaked ones.
name: secrets
_target_: sia_runner.tasks.table.TableTask
dir: {dir}
data:
  labelled: labelled.csv
metric:
  name: accuracy
  verifier: {verifier}
splits: {{dev: 0.25, val: 0.25, test: 0.2, stratify: false, folds: {folds}}}
gate: {{questions: 4, train: 20}}
limits: {{run: 30, gate: 10, verify: 20}}
"""
# Fails every verification of a wrong answer with a text that names the gold answer: as a careless verifier would.
VERIFIER = """
import csv
from sia_runner.records import Outcome, OutcomeKind

def verify(submission, answers):
    with (submission / "submission.csv").open(encoding="utf-8") as stream:
        given = {row["id"]: row["label"] for row in csv.DictReader(stream)}
    print("all answers:", answers)
    for unit, gold in answers.items():
        right = given.get(unit) == gold
        kind = OutcomeKind.CORRECT if right else OutcomeKind.WRONG
        yield Outcome(unit, kind, float(right), f"expected {gold}")
"""


def gold_of(row: int) -> str:
    return "gold" + hashlib.sha256(f"answer {row}".encode()).hexdigest()[:12]


def make(folder: Path, *, folds: int = 1, verifier: str = "exact_match") -> list[str]:
    """Write task and config under `folder`; the overrides that select it."""
    task, conf = folder / "secrets", folder / "conf" / "task"
    task.mkdir(parents=True)
    conf.mkdir(parents=True)
    (task / "task.md").write_text("# Secrets\n\nAnswer each question.\n")
    (task / "verifier.py").write_text(VERIFIER)
    with (task / "labelled.csv").open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows(
            [("id", "text", "label"), *((k, f"question {k} ?", gold_of(k)) for k in range(ROWS))]
        )
    (conf / "secrets.yaml").write_text(YAML.format(dir=task, folds=folds, verifier=verifier))
    return ["--config-dir", str(folder / "conf"), "task=secrets"]
