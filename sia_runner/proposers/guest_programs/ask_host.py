"""Asks the host, from the agent's shell, for what only the host can do. This runs inside the sandbox.

python ask_host.py try            run WORK/harness on a few dev questions; the number of trials is limited
python ask_host.py candidate N    copy an earlier candidate and the dev questions it failed to candidates/gen_N
"""

import json
import os
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

CACHE_FOLDERS = {"__pycache__", "node_modules"}  # as in sia_runner.proposers.files, which is not here


def ask(name: str, body: dict[str, Any]) -> dict[str, Any]:
    """Post a request to the host and return its answer."""
    url = os.environ["OPENAI_BASE_URL"].removesuffix("/v1") + f"/sia/{name}"
    headers = {"Authorization": f"Bearer {os.environ['OPENAI_API_KEY']}", "Content-Type": "application/json"}
    request = urllib.request.Request(url, json.dumps(body).encode(), headers)  # noqa: S310 - the gateway's address
    try:
        with urllib.request.urlopen(request) as response:  # noqa: S310 - no time limit: a trial has its own
            return json.load(response)
    except urllib.error.HTTPError as error:
        return {"error": error.read(2000).decode("utf-8", "replace")}


def read_files(folder: Path) -> dict[str, str]:
    """Return the text files of a folder: those that the host collects at the end."""
    files = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        hidden = any(part.startswith(".") or part in CACHE_FOLDERS for part in name.parts)
        if path.is_file() and not path.is_symlink() and not hidden:
            try:
                files[name.as_posix()] = path.read_text(encoding="utf-8")
            except UnicodeDecodeError:
                print(f"{name} is no text and is left out")
    return files


def try_harness(work: Path) -> dict[str, Any]:
    """Try the harness as it is now."""
    answer = ask("try", {"files": read_files(work / "harness")})
    print(answer.get("text") or f"not tried: {answer.get('error')}")
    print(f"[trials left: {answer.get('trials', 0)}]")
    return answer


def open_candidate(work: Path, generation: int) -> dict[str, Any]:
    """Copy an earlier candidate to the scratch folder."""
    answer = ask("candidate", {"generation": generation})
    if "error" in answer:
        print(answer["error"])
        return answer
    folder = work / "candidates" / f"gen_{generation}"
    for name, text in answer["files"].items():
        path = folder / "harness" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8", newline="")
    folder.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(failure, ensure_ascii=False) for failure in answer["failures"]]
    (folder / "failures.jsonl").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    print(f"{folder}: {len(answer['files'])} files in harness/, {len(lines)} dev failures in failures.jsonl")
    return answer


def main() -> int:
    """Carry out the command line; return the exit code."""
    work = Path(os.environ.get("SIA_WORK") or Path.cwd())
    match sys.argv[1:]:
        case ["try"]:
            return int("error" in try_harness(work))
        case ["candidate", number] if number.isdecimal():
            return int("error" in open_candidate(work, int(number)))
        case _:
            print((__doc__ or "").strip())
            return 2


if __name__ == "__main__":
    sys.exit(main())
