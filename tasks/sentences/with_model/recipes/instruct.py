"""One call per question, with an instruction before or after the request."""

import argparse
import csv
import json
import os
import sys
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

PROMPT = "{request} Reply with the sentence only."
TEMPERATURE = 0.0
MAX_TOKENS = 40
CALLS_AT_ONCE = 64
SECONDS = 600


def ask(row: dict[str, str], messages: list[dict[str, str]], temperature: float) -> str:
    """The first line of the reply; empty when the call failed."""
    body = {"model": os.environ["SIA_MODEL"], "messages": messages, "user": row["id"], "temperature": temperature}
    request = urllib.request.Request(  # noqa: S310 - the gateway, over http
        f"{os.environ['OPENAI_BASE_URL']}/chat/completions",
        json.dumps(body | {"max_tokens": MAX_TOKENS, "stop": ["\n"]}).encode(),
        {"Content-Type": "application/json", "Authorization": f"Bearer {os.environ['OPENAI_API_KEY']}"},
    )
    try:
        with urllib.request.urlopen(request, timeout=SECONDS) as reply:  # noqa: S310
            text = json.load(reply)["choices"][0]["message"]["content"] or ""
    except (OSError, ValueError, LookupError) as error:
        print(f"question {row['id']}: {error}", file=sys.stderr)
        return ""
    return text.strip().partition("\n")[0].strip()


def answer(row: dict[str, str]) -> str:
    return ask(row, [{"role": "user", "content": PROMPT.format(request=row["request"])}], TEMPERATURE)


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
