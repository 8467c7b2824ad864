"""A sentence that breaks rules goes back to the model, with what is wrong, up to a number of times."""

import argparse
import csv
import json
import os
import re
import sys
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

SYSTEM = "Write one short sentence that obeys every rule. Write nothing else."
SHOTS = 3
REPAIRS = 1
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
KINDS = {
    "topic": r"about an? (\w+)\.",
    "include": r'contain the word "(\w+)"',
    "at_most": r"at most (\d+) words",
    "exactly": r"exactly (\d+) words",
    "first": r'begin with the word "(\w+)"',
    "last": r'end with the word "(\w+)"',
    "mark": r'end with "([!?])"',
    "avoid": r'not use the letter "(\w)"',
}


def broken_rules(request: str, sentence: str) -> list[str]:
    """What is wrong with a sentence, in words."""
    matches = {kind: re.search(pattern, request) for kind, pattern in KINDS.items()}
    rules = {kind: match[1] for kind, match in matches.items() if match}
    words = re.findall(r"[a-z0-9]+(?:['-][a-z0-9]+)*", sentence.lower())
    if not re.fullmatch(r"[A-Z0-9][A-Za-z0-9 ,;:'\"()-]*[.!?]", sentence) or len(words) < 4:
        return ["it is not one sentence of at least four words"]
    topic, count = rules["topic"], int(rules.get("exactly", len(words)))
    checks = {
        f"it does not name the {topic}": not {topic, f"{topic}s", f"{topic}'s"} & set(words),
        f'it has no word "{rules.get("include")}"': rules.get("include", words[0]) not in words,
        f"it has {len(words)} words": len(words) > int(rules.get("at_most", 99)) or len(words) != count,
        f'it does not begin with "{rules.get("first")}"': rules.get("first", words[0]).lower() != words[0],
        f'its last word is not "{rules.get("last")}"': rules.get("last", words[-1]) != words[-1],
        f'it does not end with "{rules.get("mark")}"': not sentence.endswith(rules.get("mark", sentence[-1])),
        f'it uses the letter "{rules.get("avoid")}"': any(rules.get("avoid", "#") in word for word in words),
    }
    return [what for what, wrong in checks.items() if wrong]


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
    messages = conversation(row["request"])
    sentence = ask(row, messages, TEMPERATURE)
    for _ in range(REPAIRS):
        faults = broken_rules(row["request"], sentence)
        if not faults:
            break
        again = f"This is wrong: {'; '.join(faults)}. {row['request']}"
        messages += [{"role": "assistant", "content": sentence}, {"role": "user", "content": again}]
        second = ask(row, messages, TEMPERATURE)
        if len(broken_rules(row["request"], second)) < len(faults):
            sentence = second
    return sentence


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
