"""One call per question on a declared part of the text; a reply that is no charge becomes the nearest one."""

import argparse
import csv
import json
import os
import sys
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from difflib import SequenceMatcher
from pathlib import Path

PROMPT = "{text}"
START = 0
CHARACTERS = 240
NEAREST = True
CALLS_AT_ONCE = 64
SECONDS = 120


def ask(row: dict[str, str]) -> str:
    """The reply's text; empty when the call failed."""
    content = PROMPT.format(text=row["text"][START : START + CHARACTERS] or row["text"][:CHARACTERS])
    body = {"model": os.environ["SIA_MODEL"], "messages": [{"role": "user", "content": content}], "user": row["id"]}
    request = urllib.request.Request(  # noqa: S310 - the gateway, over http
        f"{os.environ['OPENAI_BASE_URL']}/chat/completions",
        json.dumps(body | {"temperature": 0.0}).encode(),
        {"Content-Type": "application/json", "Authorization": f"Bearer {os.environ['OPENAI_API_KEY']}"},
    )
    try:
        with urllib.request.urlopen(request, timeout=SECONDS) as reply:  # noqa: S310
            return json.load(reply)["choices"][0]["message"]["content"] or ""
    except (OSError, ValueError, LookupError) as error:
        print(f"question {row['id']}: {error}", file=sys.stderr)
        return ""


def charge(reply: str, classes: list[str]) -> str:
    """The reply where it is a charge; else, if declared so, the charge that shares most characters with it."""
    said = reply.strip()
    if said in classes or not said or not NEAREST:
        return said
    return max(classes, key=lambda name: SequenceMatcher(None, said, name).ratio())


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--dataset_dir", type=Path, required=True)
    parser.add_argument("--working_dir", type=Path, required=True)
    args = parser.parse_args()
    csv.field_size_limit(2**31 - 1)
    classes = json.loads((args.dataset_dir / "classes.json").read_text(encoding="utf-8"))
    with (args.dataset_dir / "questions.csv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    with ThreadPoolExecutor(CALLS_AT_ONCE) as pool:
        answers = [charge(reply, classes) for reply in pool.map(ask, rows)]
    with (args.working_dir / "submission.csv").open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream).writerows([("id", "label"), *zip((row["id"] for row in rows), answers, strict=True)])


if __name__ == "__main__":
    main()
