"""Harnesses that ask a model each question, as the scripted proposer writes them: they differ in the prompt alone.

They speak HTTP by themselves: importing a client library would take most of a short run.
"""

HARNESS = '''"""Asks the model once per question, 64 at a time."""

import argparse
import csv
import json
import os
import re
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

PROMPT = """{prompt}"""
URL = os.environ["OPENAI_BASE_URL"] + "/chat/completions"
HEADERS = {{"authorization": "Bearer " + os.environ["OPENAI_API_KEY"], "content-type": "application/json"}}


def ask(row):
    told = "\\n".join(f"{{name}}: {{cell}}" for name, cell in row.items() if name != "id")
    messages = [{{"role": "system", "content": PROMPT}}, {{"role": "user", "content": told}}]
    body = {{"model": os.environ["SIA_MODEL"], "user": row["id"], "max_tokens": 300, "messages": messages}}
    request = urllib.request.Request(URL, json.dumps(body).encode(), HEADERS)
    try:
        with urllib.request.urlopen(request) as got:
            text = json.load(got)["choices"][0]["message"]["content"]
    except (OSError, ValueError):
        return row["id"], ""
    said = re.findall(r"Answer: (.*)", text)
    return row["id"], said[-1] if said else ""


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--dataset_dir", type=Path)
    parser.add_argument("--working_dir", type=Path)
    args = parser.parse_args()
    with (args.dataset_dir / "questions.csv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    with ThreadPoolExecutor(64) as pool:
        answers = list(pool.map(ask, rows))
    with (args.working_dir / "submission.csv").open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream).writerows([("id", "answer"), *answers])


main()
'''

HASTY = "Answer at once, without thinking."
NAIVE = "Answer the question."
STEPS = "Answer the question. Think step by step."
STRICT = STEPS + " Then end with one line in exactly this format: Answer: <the answer alone>"
CHECKED = STRICT + " Check your answer before you write it down."

# Share of questions that the target model gets right, by what the prompt asks for; a question it gets right with one
# prompt it gets right with every better one.
RATES = {"without thinking": 0.15, "Check your answer": 0.9, "exactly this format": 0.75, "step by step": 0.55}
NAIVE_RATE = 0.3


def harness(prompt: str) -> str:
    return HARNESS.format(prompt=prompt)


def rate(text: str) -> float:
    return next((share for words, share in RATES.items() if words in text), NAIVE_RATE)
