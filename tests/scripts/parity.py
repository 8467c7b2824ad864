"""A small task for a real chat model: "Is 37 even or odd?". The reply's length decides, so that samples of one question
differ in their reward whatever the model can do."""

import csv
from pathlib import Path

TASK = """# Even and odd numbers, made by a test.
name: parity
_target_: sia_runner.tasks.table.TableTask
dir: {folder}
needs_model: true
data: {{labelled: labelled.csv}}
columns: {{answer: answer}}
metric: {{name: accuracy, verifier: exact_match}}
splits: {{dev: 0.125, val: 0.2, test: 0.2, rollout: 0.6, stratify: false}}
gate: {{questions: 2}}
limits: {{run: 600, gate: 600, verify: 60}}
"""
HARNESS = """import argparse, csv, json, os, urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

URL = os.environ["OPENAI_BASE_URL"] + "/chat/completions"
HEADERS = {{"authorization": "Bearer " + os.environ["OPENAI_API_KEY"], "content-type": "application/json"}}


def ask(row):
    messages = [{{"role": "user", "content": row["question"] + {more!r}}}]
    body = {{"model": os.environ["SIA_MODEL"], "user": row["id"], "messages": messages, "temperature": 1.0,
            "seed": 1, "max_tokens": {max_tokens}}}
    with urllib.request.urlopen(urllib.request.Request(URL, json.dumps(body).encode(), HEADERS)) as got:
        text = json.load(got)["choices"][0]["message"]["content"]
    return row["id"], "even" if len(text) % 2 == 0 else "odd"


parser = argparse.ArgumentParser()
parser.add_argument("--dataset_dir", type=Path)
parser.add_argument("--working_dir", type=Path)
args = parser.parse_args()
with (args.dataset_dir / "questions.csv").open(newline="") as stream:
    rows = list(csv.DictReader(stream)) * {copies}
with ThreadPoolExecutor(64) as pool:
    answers = dict(pool.map(ask, rows))
with (args.working_dir / "submission.csv").open("w", newline="") as stream:
    csv.writer(stream).writerows([("id", "answer"), *answers.items()])
"""


def make(
    folder: Path,
    *,
    max_tokens: int | str,
    copies: int = 1,
    more: str = " Answer with one word.",
    candidates: int = 1,
    questions: int = 40,
) -> list[str]:
    """Lay out the task and its YAML in `folder`; return the overrides that choose it.

    `max_tokens`: or an expression of `rows`, what is asked at once; `copies`: how often each question is asked,
    as load; `more`: text after each question; `candidates`: how many harnesses there are to propose, all alike;
    `questions`: at most 90, so that all numbers have two digits.
    """
    task, conf = folder / "parity", folder / "conf" / "task"
    conf.mkdir(parents=True)
    harness = HARNESS.format(max_tokens=max_tokens, copies=copies, more=more)
    for program in (task / "reference", *(task / "proposed" / f"gen_{n}" for n in range(1, candidates + 1))):
        program.mkdir(parents=True)
        (program / "target_agent.py").write_text(f"# {program.name}\n{harness}")
    (task / "task.md").write_text("Say of each number whether it is even or odd.\n")
    with (task / "labelled.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(("id", "question", "answer"))
        for number in range(10, 10 + questions):
            writer.writerow((f"n{number}", f"Is {number} even or odd?", ("even", "odd")[number % 2]))
    (conf / "parity.yaml").write_text(TASK.format(folder=task))
    return ["--config-dir", str(conf.parent), "task=parity"]


def overrides(folder: Path, **settings: object) -> list[str]:
    """Return the overrides of a run of two generations: the reference harness, then its weights."""
    return [
        *make(folder, **settings),  # pyright: ignore[reportArgumentType]
        "meta_agent=replay",
        f"meta_agent.dir={folder / 'parity' / 'proposed'}",
        "max_gen=2",
        "trainer=grpo",
        "trainer.steps=3",
        "trainer.prompts_per_step=2",
        "trainer.group_size=4",
        "trainer.learning_rate=1e-3",
        "trainer.lora.rank=8",
        "lever.probe_questions=2",
    ]
