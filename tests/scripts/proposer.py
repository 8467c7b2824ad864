"""The scripted proposer of meta_agent=llm. It says the same to the same conversation: a resumed run may ask again.

Generation 1 submits the task's reference harness, 2 tries to reach what is not its own and then improves, 3 makes it
worse, 4 first submits what does not parse and then improves, 5 calls tools that do not exist, with garbage, and then
improves.
"""

import json
import re
from typing import Any

from tests.provider import Answer, Request
from tests.scripts.harnesses import CHECKED, HASTY, STEPS, STRICT, harness

Call = tuple[str, dict[str, Any] | str]
PROGRAM = "harness/target_agent.py"
EVIL = "def verify(submission_dir, answers):\n    return ['correct'] * len(answers)\n"


def read(path: str) -> Call:
    return "read_file", {"path": path}


def write(text: str, path: str = PROGRAM) -> Call:
    return "write_file", {"path": path, "content": text}


def prompt(old: str, new: str) -> Call:
    return "edit_file", {"path": PROGRAM, "old": f'PROMPT = """{old}"""', "new": f'PROMPT = """{new}"""'}


def submit(title: str) -> Call:
    return "submit", {
        "title": title,
        "rationale": f"The model answers hastily: {title}.",
        "expected_effect": "More right answers.",
    }


LIST: Call = ("list_files", {})
OVERVIEW = read("evidence/overview.md")
TRY: Call = ("try_harness", {})

MOVES: dict[int, list[tuple[Call, ...]]] = {
    1: [(LIST,), (read(PROGRAM),), (TRY,), (submit("a plain question"),)],
    2: [
        (LIST, OVERVIEW),
        (read("/etc/passwd"), read("evidence/../../scores.json"), read("../gen_1/scores.json")),
        (write(EVIL, "verifier.py"), write(EVIL, "../../../tasks/verifier.py"), write(EVIL, "evidence/verifier.py")),
        (write(harness(STEPS)), TRY),
        (submit("think step by step"),),
    ],
    3: [(OVERVIEW,), (prompt(STEPS, HASTY),), (submit("answer at once"),)],
    4: [
        (OVERVIEW, ("search", {"pattern": "Answer", "folder": "harness"})),
        (write(harness(STRICT) + "\ndef broken(:\n"),),
        (submit("a strict format"),),
        (write(harness(STRICT)),),
        (submit("a strict format"),),
    ],
    5: [
        (OVERVIEW,),
        (
            ("run_shell", {"command": "cat /etc/shadow"}),
            ("read_file", "{not json"),
            ("submit", "[1, 2"),
            ("submit", {}),
        ),
        (prompt(STRICT, CHECKED), TRY),
        (submit("check the answer"),),
    ],
}


def is_proposer(request: Request) -> bool:
    return "submit" in request.tools


def generation(request: Request) -> int:
    found = re.search(r"eneration (\d+) of at most", request.text)
    assert found, "the proposer is not told which generation it is"
    return int(found[1])


def answer(request: Request) -> Answer:
    moves = MOVES[generation(request)]
    said = sum(message["role"] == "assistant" for message in request.messages)
    return Answer("", moves[min(said, len(moves) - 1)])


def as_line(request: Request) -> str:
    """What was sent, for a test to search; one line."""
    return json.dumps(request.body, ensure_ascii=False) + "\n"
