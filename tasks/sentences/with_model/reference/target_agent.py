"""The naive start for a model: the request as it is, once, and the first line of the reply."""

import argparse
import csv
import json
import os
import sys
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

MAX_TOKENS = 40  # a sentence has some twenty
CALLS_AT_ONCE = 64
SECONDS = 600


def ask(row: dict[str, str]) -> str:
    """The first line of the reply; empty when the call failed."""
    message = {"role": "user", "content": row["request"]}
    body = {"model": os.environ["SIA_MODEL"], "messages": [message], "user": row["id"]}  # user: whose call it is
    request = urllib.request.Request(  # noqa: S310 - the gateway, over http
        f"{os.environ['OPENAI_BASE_URL']}/chat/completions",
        json.dumps(body | {"max_tokens": MAX_TOKENS}).encode(),
        {"Content-Type": "application/json", "Authorization": f"Bearer {os.environ['OPENAI_API_KEY']}"},
    )
    try:
        with urllib.request.urlopen(request, timeout=SECONDS) as reply:  # noqa: S310
            text = json.load(reply)["choices"][0]["message"]["content"] or ""
    except (OSError, ValueError, LookupError) as error:
        print(f"question {row['id']}: {error}", file=sys.stderr)
        return ""
    return text.strip().partition("\n")[0].strip()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--dataset_dir", type=Path, required=True)
    parser.add_argument("--working_dir", type=Path, required=True)
    args = parser.parse_args()
    with (args.dataset_dir / "questions.csv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    with ThreadPoolExecutor(CALLS_AT_ONCE) as pool:
        answers = list(pool.map(ask, rows))
    with (args.working_dir / "submission.csv").open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream).writerows([("id", "answer"), *zip((row["id"] for row in rows), answers, strict=True)])


if __name__ == "__main__":
    main()
