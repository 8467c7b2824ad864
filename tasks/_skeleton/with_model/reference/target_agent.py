"""The naive start for a model: each row is shown once, and the reply is the answer.

With the standard library alone: loading a client's package would take longer than all the answers of a small policy.
"""

import argparse
import csv
import json
import os
import sys
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ID = "id"
ANSWER = "label"
# a tiny policy is warmed on the same prompt: warmup_format in the task's YAML
ASK = "Answer with the label and nothing else."
CALLS_AT_ONCE = 32
SECONDS = 60


def prompt(row: dict[str, str]) -> str:
    cells = [f"{column}: {cell}" for column, cell in row.items() if column != ID]
    return "\n".join([ASK, *cells])


def ask(row: dict[str, str]) -> str:
    """The reply's text; empty when the call failed."""
    message = {"role": "user", "content": prompt(row)}
    body = {"model": os.environ["SIA_MODEL"], "messages": [message], "user": row[ID]}  # user: whose call it is
    request = urllib.request.Request(  # noqa: S310 - the gateway, over http
        f"{os.environ['OPENAI_BASE_URL']}/chat/completions",
        json.dumps(body).encode(),
        {"Content-Type": "application/json", "Authorization": f"Bearer {os.environ['OPENAI_API_KEY']}"},
    )
    try:
        with urllib.request.urlopen(request, timeout=SECONDS) as reply:  # noqa: S310
            return json.load(reply)["choices"][0]["message"]["content"] or ""
    except (OSError, ValueError, LookupError) as error:
        print(f"question {row[ID]}: {error}", file=sys.stderr)
        return ""


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--dataset_dir", type=Path, required=True)
    parser.add_argument("--working_dir", type=Path, required=True)
    args = parser.parse_args()
    csv.field_size_limit(1 << 30)
    with (args.dataset_dir / "questions.csv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    with ThreadPoolExecutor(CALLS_AT_ONCE) as pool:
        answers = [reply.strip() for reply in pool.map(ask, rows)]
    with (args.working_dir / "submission.csv").open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream).writerows([(ID, ANSWER), *zip((row[ID] for row in rows), answers, strict=True)])


if __name__ == "__main__":
    main()
