"""Parses and searches untrusted text in a child process with limits on time and memory."""

import json
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

SECONDS = 5.0
_PREAMBLE = """
import json, resource, sys
resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))
given = json.load(sys.stdin)
"""
_PARSE = """
import ast
for name, text in given["files"].items():
    try:
        ast.parse(text, name)
    except SyntaxError as error:  # as text it names no folder
        print(json.dumps(f"{type(error).__name__}: {error.msg} ({name}, line {error.lineno})"))
        break
    except (ValueError, RecursionError, MemoryError) as error:
        print(json.dumps(f"{type(error).__name__}: {error} ({name})"))
        break
else:
    print('""')
"""
_FIND = """
import re
from itertools import islice
try:
    pattern = re.compile(given["pattern"], re.IGNORECASE if given["ignore_case"] else 0)
except (re.error, OverflowError, RecursionError) as error:
    print(json.dumps({"fault": f"not a regular expression: {error}"}))
    sys.exit()
matches = (
    [name, number, match.start()]
    for name, text in given["files"].items()
    for number, line in enumerate(text.split("\\n"), start=1)
    for match in [pattern.search(line)]
    if match
)
print(json.dumps({"found": list(islice(matches, given["most"]))}))
"""


class NotDone(Exception):
    """A child process that took too long or too much memory; the message is one line."""


def syntax_fault(files: Mapping[str, str]) -> str:
    """Return the first syntax error in the .py files as one line; empty when all parse."""
    sources = {name: text for name, text in files.items() if name.endswith(".py")}
    try:
        return str(_run(_PARSE, {"files": sources}))[:300] if sources else ""
    except NotDone as fault:
        return f"parsing {fault}"


def find(files: Mapping[str, str], pattern: str, *, ignore_case: bool, limit: int) -> list[tuple[str, int, int]]:
    """Return (name, line, column) of the first match in each line, `limit` at most; lines from 1, columns from 0.

    Raises NotDone.
    """
    request = {"files": dict(files), "pattern": pattern, "ignore_case": ignore_case, "most": limit}
    answer = _run(_FIND, request)
    if "fault" in answer:
        raise NotDone(answer["fault"][:300])
    return [(name, line, column) for name, line, column in answer["found"]]


def _run(program: str, request: Any) -> Any:
    try:
        process = subprocess.run(
            [sys.executable, "-I", "-S", "-c", _PREAMBLE + program],
            input=json.dumps(request).encode(),
            capture_output=True,
            env={},
            timeout=SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise NotDone(f"took longer than {SECONDS:.0f} s") from None
    if process.returncode:
        lines = process.stderr.decode(errors="replace").strip().splitlines() or [f"exit code {process.returncode}"]
        raise NotDone(f"failed: {lines[-1][:200]}")
    return json.loads(process.stdout)
