"""The naive start for a model: the beginning of the text, once, and the first line of the reply as it is.

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

CHARACTERS = 240  # of a text; what base=tiny is warmed on (task.warmup_format)
CHAT_CHARACTERS = 1500
CHAT_PROMPT = "阅读案情，判断被告人犯了什么罪。只回答罪名，不要解释，例如：盗窃。\n\n案情：{text}\n\n罪名："
CALLS_AT_ONCE = 64
SECONDS = 120


def ask(row: dict[str, str]) -> str:
    """The reply's text; empty when the call failed."""
    content = row["text"][:CHARACTERS]
    if os.environ["SIA_MODEL"] != "tiny":  # which is warmed on bare texts and understands nothing else
        content = CHAT_PROMPT.format(text=row["text"][:CHAT_CHARACTERS])
    message = {"role": "user", "content": content}
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


def charge(reply: str) -> str:
    """The first line, without the label, the full stop and the word for crime that people write; no charge has them."""
    line = (reply.strip().splitlines() or [""])[0]
    return line.strip(" *").removeprefix("罪名：").strip(" 。*").removesuffix("罪")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--dataset_dir", type=Path, required=True)
    parser.add_argument("--working_dir", type=Path, required=True)
    args = parser.parse_args()
    csv.field_size_limit(2**31 - 1)
    with (args.dataset_dir / "questions.csv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    with ThreadPoolExecutor(CALLS_AT_ONCE) as pool:
        answers = [charge(reply) for reply in pool.map(ask, rows)]
    with (args.working_dir / "submission.csv").open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream).writerows([("id", "label"), *zip((row["id"] for row in rows), answers, strict=True)])


if __name__ == "__main__":
    main()
