"""A tiny task folder in sia-agent's layout, and target agents that say when they began and ended."""

from pathlib import Path

QUESTIONS = 8
MANY_LINES, ONE_LINE = "x" * 63 + "\n", "x"  # what a target agent repeats to print a lot

TASK_MD = """# Parity
For each row of questions.csv write `id,label` to submission.csv in the working folder; label is `even` or `odd`.
"""

EVALUATE = """\
import argparse
import csv
import json
from pathlib import Path

ANSWERS = Path(__file__).resolve().parents[1] / "private" / "answers.csv"


def labels(path):
    with open(path, newline="") as file:
        return {row["id"]: row["label"] for row in csv.DictReader(file)}


parser = argparse.ArgumentParser()
parser.add_argument("--gen-dir", type=Path)
folder = parser.parse_args().gen_dir
answers, given = labels(ANSWERS), labels(folder / "submission.csv")
right = sum(given.get(unit) == label for unit, label in answers.items())
(folder / "results.json").write_text(json.dumps({"accuracy": right / len(answers)}))
"""

# The stamps go to stdout, which both runners keep, so that a gate's short run is seen too.
HARNESS = """\
import time

print("stamp began", time.time_ns(), flush=True)
import argparse
import csv
import sys
from pathlib import Path

VARIANT = {variant}  # each generation brings another program
MIB, LINE = {mib}, {line!r}

parser = argparse.ArgumentParser()
parser.add_argument("--dataset_dir", type=Path)
parser.add_argument("--working_dir", type=Path)
args = parser.parse_args()
with open(args.dataset_dir / "questions.csv", newline="") as file:
    numbers = [row["id"] for row in csv.DictReader(file)]
with open(args.working_dir / "submission.csv", "w", newline="") as file:
    rows = csv.writer(file)
    rows.writerow(["id", "label"])
    rows.writerows([number, "odd" if number[-1] in "13579" else "even"] for number in numbers)
block = (LINE * ((1 << 16) // len(LINE))).encode()
for _ in range(MIB << 4):
    sys.stdout.buffer.write(block)
sys.stdout.buffer.flush()
print("\\nstamp ended", time.time_ns(), flush=True)
"""


def harness(variant: int, mib: int = 0, line: str = "x") -> str:
    """Source of a target agent that answers every question and prints `mib` MiB of `line` (a power of two in bytes)."""
    return HARNESS.format(variant=variant, mib=mib, line=line)


def write_task(folder: Path) -> None:
    """A folder that both runners take as it is."""
    numbers = range(1, QUESTIONS + 1)
    answers = "".join(f"{n},{'odd' if n % 2 else 'even'}\n" for n in numbers)
    files = {
        "data/public/task.md": TASK_MD,
        "data/public/questions.csv": "id\n" + "".join(f"{n}\n" for n in numbers),
        "data/public/evaluate.py": EVALUATE,
        "data/private/answers.csv": "id,label\n" + answers,
        "reference/reference_target_agent.py": harness(0),
        "reference/SAMPLE_TASK_DESCRIPTIONS.md": "A table of questions, a table of answers.\n",
    }
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


def stamps(log: Path) -> tuple[float, float]:
    """Return when the target agent that printed `log` began and ended, in epoch seconds. Raises ValueError."""
    with log.open("rb") as file:
        head = file.read(4096)
        file.seek(max(0, log.stat().st_size - 4096))
        tail = file.read()
    return _stamp(head, b"stamp began ", log), _stamp(tail, b"stamp ended ", log)


def _stamp(text: bytes, mark: bytes, log: Path) -> float:
    _, separator, rest = text.partition(mark)
    if not separator:
        raise ValueError(f"{log} has no '{mark.decode().strip()}': the target agent did not run to its end")
    return int(rest.split(maxsplit=1)[0]) / 1e9
