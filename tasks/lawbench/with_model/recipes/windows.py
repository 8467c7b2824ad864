"""Several parts of a text, one call each; the charge whose replies are most probable together."""

import argparse
import csv
import json
import math
import os
import sys
import urllib.request
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from difflib import SequenceMatcher
from pathlib import Path

WINDOWS = 2
STEP = 60
CHARACTERS = 240
WEIGHT = "probability"
CALLS_AT_ONCE = 64
SECONDS = 120


def ask(row: dict[str, str], content: str) -> tuple[str, float]:
    """The reply's text and its probability at the temperature asked for; empty when the call failed."""
    body = {"model": os.environ["SIA_MODEL"], "messages": [{"role": "user", "content": content}], "user": row["id"]}
    request = urllib.request.Request(  # noqa: S310 - the gateway, over http
        f"{os.environ['OPENAI_BASE_URL']}/chat/completions",
        json.dumps(body | {"temperature": 0.0, "logprobs": True}).encode(),
        {"Content-Type": "application/json", "Authorization": f"Bearer {os.environ['OPENAI_API_KEY']}"},
    )
    try:
        with urllib.request.urlopen(request, timeout=SECONDS) as reply:  # noqa: S310
            choice = json.load(reply)["choices"][0]
        sure = math.exp(sum(token["logprob"] for token in (choice.get("logprobs") or {}).get("content") or ()))
        return choice["message"]["content"] or "", sure
    except (OSError, ValueError, LookupError) as error:
        print(f"question {row['id']}: {error}", file=sys.stderr)
        return "", 0.0


def charge(reply: str, classes: list[str]) -> str:
    """The reply where it is a charge, else the charge that shares most characters with it."""
    said = reply.strip()
    if said in classes or not said:
        return said
    return max(classes, key=lambda name: SequenceMatcher(None, said, name).ratio())


def parts(text: str) -> list[str]:
    """The beginning, and later ones as long as there is new text in them."""
    starts = [STEP * i for i in range(WINDOWS)]
    return [text[start : start + CHARACTERS] for start in starts if not start or len(text) > start - STEP + CHARACTERS]


def answer(row: dict[str, str], classes: list[str]) -> str:
    votes: Counter[str] = Counter()
    for part in parts(row["text"]):
        reply, sure = ask(row, part)
        if reply:
            votes[charge(reply, classes)] += sure if WEIGHT == "probability" else 1
    return votes.most_common(1)[0][0] if votes else ""  # the earliest where several are


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
        answers = list(pool.map(lambda row: answer(row, classes), rows))
    with (args.working_dir / "submission.csv").open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream).writerows([("id", "label"), *zip((row["id"] for row in rows), answers, strict=True)])


if __name__ == "__main__":
    main()
