"""Writes the samples of a task of Inspect AI as a table, and what its scorer needs beside it.

    python make_data.py --out DIR --task NAME [--source FILE.py] [--args JSON] [--score KEY]

labelled.csv: the samples as harnesses see them, with the target. samples.json and scorer.json: for verifier.py only.
about.md: the task's own description.
"""

import argparse
import asyncio
import csv
import json
import os
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from loading import Judge, load_task

MOST_SAMPLES = 200_000


def cell(value: Any) -> str:
    """Return a cell: text as it is, anything else as JSON."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def input_of(sample: Any, number: int) -> str:
    """Return the question as a harness sees it: text, or the messages as JSON."""
    if isinstance(sample.input, str):
        return sample.input
    messages = []
    for message in sample.input:
        parts = [] if isinstance(message.content, str) else message.content
        if any(part.type != "text" for part in parts):
            sys.exit(f"sample {number} has images or other media, which a table cannot hold")
        messages.append({"role": message.role, "content": message.text})
    return cell(messages)


def refuse_what_needs_more(task: Any, samples: list[Any]) -> None:
    """End where a harness that gives one text cannot be the solver."""
    if not task.scorer:
        sys.exit("the task has no scorer, so nothing can judge an answer")
    if task.sandbox is not None or any(sample.sandbox or sample.files or sample.setup for sample in samples):
        sys.exit("the task runs in a sandbox of Inspect, where no harness of ours is; allowed: tasks that judge a text")
    if not samples:
        sys.exit("the task has no samples")
    if len(samples) > MOST_SAMPLES:
        sys.exit(f"the task has {len(samples):,} samples; allowed: {MOST_SAMPLES:,}")


def scorer_facts(task: Any, file: str, score: str) -> dict[str, Any]:
    """Return the name and arguments by which the first scorer can be built again."""
    from inspect_ai._util.registry import registry_params  # no public function tells the arguments
    from inspect_ai.util import registry_info

    scorer = task.scorer[0]
    facts = {"scorer": registry_info(scorer).name, "params": registry_params(scorer), "file": file, "score": score}
    try:
        json.dumps(facts)
    except TypeError:
        sys.exit(f"the scorer {facts['scorer']} has arguments that are no plain data, so it cannot be built again")
    return facts


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--source", default="")
    parser.add_argument("--task", required=True)
    parser.add_argument("--args", default="{}")
    parser.add_argument("--score", default="")
    parser.add_argument("--versions")  # of the packages: they are part of the cache's key
    options = parser.parse_args()
    task = load_task(options.task, options.source, json.loads(options.args))
    try:
        samples = list(task.dataset)
    except TypeError:
        sys.exit("the task makes its samples while it runs, so there is no table of them")
    refuse_what_needs_more(task, samples)
    facts = scorer_facts(task, options.source, options.score)
    stored = [
        {"input": json.loads(sample.model_dump_json(include={"input"}))["input"], "target": sample.target}
        | {"choices": sample.choices, "metadata": sample.metadata or {}, "id": sample.id or number}
        for number, sample in enumerate(samples, 1)
    ]
    (options.out / "samples.json").write_text(json.dumps(stored, default=str), encoding="utf-8")
    (options.out / "scorer.json").write_text(json.dumps(facts), encoding="utf-8")
    about = (getattr(task, "description", None) or "").strip()
    names = ", ".join(f"`{name}`" for name in (options.task, facts["scorer"]))
    (options.out / "about.md").write_text(f"The task and its scorer: {names}.\n\n{about}\n", encoding="utf-8")
    multiple = any(sample.choices for sample in samples)
    with (options.out / "labelled.csv").open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(["id", "input", *(["choices"] if multiple else []), "answer"])
        for number, sample in enumerate(samples, 1):
            choices = [cell(sample.choices or [])] if multiple else []
            writer.writerow([number, input_of(sample, number), *choices, cell(sample.target)])
    try_scorer(options.out)


def try_scorer(folder: Path) -> None:
    """End where the scorer judges no text by itself, as one that asks a model; no key is in its environment."""
    for name in [name for name in os.environ if name not in ("PATH", "HOME", "LANG", "LC_ALL")]:
        del os.environ[name]
    try:
        asyncio.run(Judge(folder).value(0, "A"))
    except Exception as error:  # noqa: BLE001 - whatever a scorer raises
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        sys.exit(f"the task's scorer cannot judge a text here, without a model and a sandbox: {reason}")


if __name__ == "__main__":
    main()
