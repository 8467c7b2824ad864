"""One call per question, after examples of requests and sentences that obey them."""

import argparse
import csv
import json
import os
import sys
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

SYSTEM = "Write one short sentence that obeys every rule. Write nothing else."
SHOTS = 3
TEMPERATURE = 0.0
MAX_TOKENS = 40
CALLS_AT_ONCE = 64
SECONDS = 600
# Requests that no question of the task makes, and sentences that obey them.
EXAMPLES = [
    (
        'Write one sentence about a lantern. It must have at most 9 words and end with "!".',
        "What a bright lantern hangs above the door!",
    ),
    (
        'Write one sentence about a carpet. It must contain the word "dusty" and have exactly 7 words.',
        "The dusty carpet lay in the hall.",
    ),
    (
        'Write one sentence about a farm. It must begin with the word "Our" and end with the word "rain".',
        "Our farm was very green after the rain.",
    ),
    (
        'Write one sentence about a nurse. It must have exactly 6 words and not use the letter "b".',
        "The nurse came in and smiled.",
    ),
]


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


def conversation(request: str) -> list[dict[str, str]]:
    """The request after examples, as turns of a conversation."""
    messages = [{"role": "system", "content": SYSTEM}]
    for example, sentence in EXAMPLES[:SHOTS]:
        messages += [{"role": "user", "content": example}, {"role": "assistant", "content": sentence}]
    return [*messages, {"role": "user", "content": request}]


def answer(row: dict[str, str]) -> str:
    return ask(row, conversation(row["request"]), TEMPERATURE)


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
