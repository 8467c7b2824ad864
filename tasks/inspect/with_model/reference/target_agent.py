"""The naive start for a model: the input as it is, once, with the choices if there are any, and the whole reply."""

import argparse
import csv
import json
import os
import re
import sys
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

CALLS_AT_ONCE = 16
SECONDS = 600
CHOOSE = "\n\n{choices}\n\nEnd your reply with a line of the form `ANSWER: A`, with the letter of your choice."


def messages_of(row: dict[str, str]) -> list[dict[str, str]]:
    """The conversation that the model is to continue."""
    text = row["input"]
    messages = json.loads(text) if text.startswith('[{"role"') else [{"role": "user", "content": text}]
    choices = json.loads(row.get("choices") or "[]")
    if choices:
        lines = "\n".join(f"{chr(ord('A') + at)}) {choice}" for at, choice in enumerate(choices))
        messages[-1]["content"] += CHOOSE.format(choices=lines)
    return messages


def ask(row: dict[str, str]) -> str:
    """The reply, of a choice its letters; empty when the call failed."""
    body = {"model": os.environ["SIA_MODEL"], "messages": messages_of(row), "user": row["id"]}  # user: whose call it is
    request = urllib.request.Request(  # noqa: S310 - the gateway, over http
        f"{os.environ['OPENAI_BASE_URL']}/chat/completions",
        json.dumps(body).encode(),
        {"Content-Type": "application/json", "Authorization": f"Bearer {os.environ['OPENAI_API_KEY']}"},
    )
    try:
        with urllib.request.urlopen(request, timeout=SECONDS) as reply:  # noqa: S310
            text = json.load(reply)["choices"][0]["message"]["content"] or ""
    except (OSError, ValueError, LookupError) as error:
        print(f"question {row['id']}: {error}", file=sys.stderr)
        return ""
    chosen = re.findall(r"ANSWER\s*:\s*([A-Z](?:[ ,]+[A-Z])*)\b", text) if row.get("choices") else []
    return chosen[-1] if chosen else text


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--dataset_dir", type=Path, required=True)
    parser.add_argument("--working_dir", type=Path, required=True)
    args = parser.parse_args()
    csv.field_size_limit(1 << 24)
    with (args.dataset_dir / "questions.csv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    with ThreadPoolExecutor(CALLS_AT_ONCE) as pool:
        answers = list(pool.map(ask, rows))
    with (args.working_dir / "submission.csv").open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream).writerows([("id", "answer"), *zip((row["id"] for row in rows), answers, strict=True)])


if __name__ == "__main__":
    main()
