"""The naive start: the question, once, and the number that the reply states.

With the standard library alone: loading a client's package would take longer than all the answers of a small policy.
"""

import argparse
import csv
import json
import os
import re
import sys
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

CALLS_AT_ONCE = 32
SECONDS = 60


def ask(row: dict[str, str]) -> str:
    """The reply's text; empty when the call failed."""
    question = row["question"]
    if os.environ["SIA_MODEL"] != "tiny":  # which is warmed on bare questions and understands nothing else
        question = f"What is {question.removesuffix('=')}? Answer with the number only."
    message = {"role": "user", "content": question}
    body = {"model": os.environ["SIA_MODEL"], "messages": [message], "user": row["id"]}  # user: whose call it is
    request = urllib.request.Request(  # noqa: S310 - the gateway, over http
        f"{os.environ['OPENAI_BASE_URL']}/chat/completions",
        json.dumps(body).encode(),
        {"Content-Type": "application/json", "Authorization": f"Bearer {os.environ['OPENAI_API_KEY']}"},
    )
    try:
        with urllib.request.urlopen(request, timeout=SECONDS) as reply:  # noqa: S310
            return json.load(reply)["choices"][0]["message"]["content"] or ""
    except (OSError, ValueError, LookupError) as error:
        print(f"question {row['id']}: {error}", file=sys.stderr)
        return ""


def number(text: str) -> str:
    """The number after the last `=`, `is` or `answer:`, as people write it; else the last number."""
    stated = re.findall(r"(?:=|\bis|\banswer)[\s:*$`]*(-?\d[\d,]*)", text, re.IGNORECASE)
    numbers = stated or re.findall(r"-?\d[\d,]*", text)
    return numbers[-1].replace(",", "") if numbers else ""


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--dataset_dir", type=Path, required=True)
    parser.add_argument("--working_dir", type=Path, required=True)
    args = parser.parse_args()
    with (args.dataset_dir / "questions.csv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    with ThreadPoolExecutor(CALLS_AT_ONCE) as pool:
        answers = list(pool.map(lambda row: number(ask(row)), rows))
    with (args.working_dir / "submission.csv").open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream).writerows([("id", "answer"), *zip((row["id"] for row in rows), answers, strict=True)])


if __name__ == "__main__":
    main()
