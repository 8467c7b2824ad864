"""Asks the model for the kernel, once; a second time where what came does not parse."""

import argparse
import ast
import csv
import os
import re
from pathlib import Path

from openai import OpenAI

TRIES = 2
SHAPE = ("n", "batch", "dim", "hidden", "masked", "distribution", "device")
PROMPT = """{task}

The shapes of this run: {shapes}

Answer with the complete submission.py in one ```python block."""


def program(reply: str) -> str:
    """The last code block of the reply, or all of it where there is none."""
    blocks = re.findall(r"```(?:python|py)?[ \t]*\n(.*?)```", reply, re.DOTALL)
    return blocks[-1] if blocks else reply


def fault(source: str) -> str:
    try:
        ast.parse(source)
    except (SyntaxError, ValueError) as error:
        return str(error)
    return ""


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--dataset_dir", type=Path, required=True)
    parser.add_argument("--working_dir", type=Path, required=True)
    args = parser.parse_args()
    with (args.dataset_dir / "questions.csv").open(encoding="utf-8", newline="") as stream:
        shapes = sorted({" ".join(f"{name}={row[name]}" for name in SHAPE) for row in csv.DictReader(stream)})
    task = (args.dataset_dir / "task.md").read_text(encoding="utf-8")
    messages = [{"role": "user", "content": PROMPT.format(task=task, shapes="; ".join(shapes))}]
    client, source = OpenAI(max_retries=0), ""  # the gateway retries
    for _ in range(TRIES):
        reply = client.chat.completions.create(model=os.environ["SIA_MODEL"], messages=messages)
        text = reply.choices[0].message.content or ""
        source = program(text)
        why = fault(source)
        if not why:
            break
        again = {"role": "user", "content": f"That does not parse: {why}. Send the complete file again."}
        messages += [{"role": "assistant", "content": text or "(nothing)"}, again]
    (args.working_dir / "submission.py").write_text(source, encoding="utf-8")


if __name__ == "__main__":
    main()
