"""The naive start for a model: the instruction and the text files, once, and the files that the reply holds."""

import argparse
import csv
import json
import os
import re
import sys
import tarfile
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath

CALLS_AT_ONCE = 8
SECONDS = 600
MOST_CHARACTERS = 20_000  # of one file to begin with
FORM = """

You cannot run anything. Reply with every file to be written, each in this form; paths start at the working directory:

=== path/of/file
its content
=== end"""


def prompt(row: dict[str, str], archive: Path) -> str:
    """The instruction, and what lies in the working directory."""
    parts = [row["instruction"]]
    with tarfile.open(archive) as packed:
        for member in packed:
            stream = packed.extractfile(member)
            text = stream.read(MOST_CHARACTERS).decode(errors="replace") if stream else ""
            parts.append(
                f"There is a file {member.name}:\n{text}" if "\0" not in text else f"There is a file {member.name}."
            )
    return "\n\n".join(parts) + FORM


def ask(row: dict[str, str], folder: Path) -> dict[str, str]:
    """Path -> content; empty when the call failed."""
    message = {"role": "user", "content": prompt(row, folder / row["environment"])}
    body = {"model": os.environ["SIA_MODEL"], "messages": [message], "user": row["id"]}  # user: whose call it is
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
        return {}
    return dict(re.findall(r"^=== (?!end$)(\S+)\n(.*?)^=== end$", text + "\n", re.MULTILINE | re.DOTALL))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--dataset_dir", type=Path, required=True)
    parser.add_argument("--working_dir", type=Path, required=True)
    args = parser.parse_args()
    csv.field_size_limit(1 << 24)
    with (args.dataset_dir / "questions.csv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    with ThreadPoolExecutor(CALLS_AT_ONCE) as pool:
        replies = list(pool.map(lambda row: ask(row, args.dataset_dir), rows))
    for row, files in zip(rows, replies, strict=True):
        for name, content in files.items():
            parts = [part for part in PurePosixPath(name).parts if part not in ("/", "..")]
            path = args.working_dir.joinpath("answers", row["id"], *parts[parts[:1] == ["app"] :])
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content, encoding="utf-8")


if __name__ == "__main__":
    main()
