"""One call per question: a declared prompt and temperature, asked again while the reply holds no number."""

import argparse
import csv
import json
import os
import re
import sys
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

PROMPT = "{question}"
TEMPERATURE = 0.0
TAKE = "last"
TRIES = 2
CALLS_AT_ONCE = 32
SECONDS = 60


def ask(row: dict[str, str], temperature: float) -> str:
    """The reply's text; empty when the call failed."""
    message = {"role": "user", "content": PROMPT.format(**row)}
    body = {"model": os.environ["SIA_MODEL"], "messages": [message], "user": row["id"], "temperature": temperature}
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
    """The first or the last number, with its sign; commas between thousands left out."""
    found = re.findall(r"-?\d+", text.replace(",", ""))
    return found[0 if TAKE == "first" else -1] if found else ""


def answer(row: dict[str, str]) -> str:
    for attempt in range(TRIES):
        found = number(ask(row, TEMPERATURE if attempt == 0 else max(TEMPERATURE, 0.7)))  # else: the same reply again
        if found:
            return found
    return ""


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--dataset_dir", type=Path, required=True)
    parser.add_argument("--working_dir", type=Path, required=True)
    args = parser.parse_args()
    with (args.dataset_dir / "questions.csv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    with ThreadPoolExecutor(CALLS_AT_ONCE) as pool:
        answers = list(pool.map(answer, rows))
    with (args.working_dir / "submission.csv").open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream).writerows([("id", "answer"), *zip((row["id"] for row in rows), answers, strict=True)])


if __name__ == "__main__":
    main()
