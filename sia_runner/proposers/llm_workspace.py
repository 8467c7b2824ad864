"""The workspace of one proposal: the evidence and the draft of a harness.

Untrusted text is parsed and searched in a child process with limits on time and memory.
"""

import hashlib
import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from sia_runner.proposers.files import MAX_HARNESS_BYTES, MAX_HARNESS_FILES
from sia_runner.proposers.protocol import MeasuredRewards, WeightsLever, Workbench
from sia_runner.records import Trial

CHILD_SECONDS = 10.0
_PREAMBLE = """
import json, resource, sys
resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))
request = json.load(sys.stdin)
"""
_PARSE = """
import ast
for name, text in request["files"].items():
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
    pattern = re.compile(request["pattern"], re.IGNORECASE if request["ignore_case"] else 0)
except (re.error, OverflowError, RecursionError) as error:
    print(json.dumps({"fault": f"not a regular expression: {error}"}))
    sys.exit()
matches = (
    [name, number, match.start()]
    for name, text in request["files"].items()
    for number, line in enumerate(text.split("\\n"), start=1)
    for match in [pattern.search(line)]
    if match
)
print(json.dumps({"matches": list(islice(matches, request["most"]))}))
"""


class ToolRefused(Exception):
    """A tool call that cannot be carried out; the message is sent back to the model."""


def syntax_fault(files: Mapping[str, str]) -> str:
    """Return the first syntax error in the .py files as one line; empty when all parse."""
    sources = {name: text for name, text in files.items() if name.endswith(".py")}
    try:
        return str(_run_child("parsing", _PARSE, {"files": sources}))[:300] if sources else ""
    except ToolRefused as fault:
        return str(fault)


def find_matches(
    files: Mapping[str, str], pattern: str, *, ignore_case: bool, limit: int
) -> list[tuple[str, int, int]]:
    """Return (name, line, column) of a regular expression's first match in each line; the first column is 0.

    Raises ToolRefused, also for a pattern that is no regular expression.
    """
    request = {"files": dict(files), "pattern": pattern, "ignore_case": ignore_case, "most": limit}
    answer = _run_child("search", _FIND, request)
    if "fault" in answer:
        raise ToolRefused(f"search: {answer['fault'][:300]}")
    return [(name, line, column) for name, line, column in answer["matches"]]


def _run_child(task: str, program: str, request: Any) -> Any:
    """Return the program's answer. Raises ToolRefused where it takes too long or too much memory."""
    try:
        process = subprocess.run(
            [sys.executable, "-I", "-S", "-c", _PREAMBLE + program],
            input=json.dumps(request).encode(),
            capture_output=True,
            env={},
            timeout=CHILD_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise ToolRefused(f"{task} took longer than {CHILD_SECONDS:.0f} s") from None
    if process.returncode:
        lines = process.stderr.decode(errors="replace").strip().splitlines() or [f"exit code {process.returncode}"]
        raise ToolRefused(f"{task} failed: {lines[-1][:200]}")
    return json.loads(process.stdout)


_NAME_BYTES = 180  # below the limits of file systems for a name and of the build stage for a path


class Draft:
    """The harness that the model edits."""

    def __init__(self, start: Mapping[str, str], entry: str) -> None:
        self.start, self.entry = dict(start), entry
        self._files = dict(start)

    @property
    def files(self) -> dict[str, str]:
        """A copy of the draft's files."""
        return dict(self._files)

    @property
    def changed(self) -> bool:
        """True when the draft differs from its start."""
        return self._files != self.start

    def write(self, name: str, text: str) -> None:
        """Write a file. Raises ToolRefused for an invalid name or text, or a harness that is too large."""
        if len(name.encode(errors="replace")) > _NAME_BYTES or not name.isprintable() or "\\" in name:
            raise ToolRefused(f"use a name of printable characters without backslash, at most {_NAME_BYTES} bytes")
        parents = {parent.as_posix() for parent in PurePosixPath(name).parents}
        for other in self._files:
            if other in parents or other.startswith(f"{name}/"):
                raise ToolRefused(f"harness/{name} and harness/{other} cannot both be files")
        try:
            size = sum(len(content.encode()) for content in {**self._files, name: text}.values())
        except UnicodeEncodeError:
            raise ToolRefused("the text holds half a surrogate pair, which is no valid UTF-8") from None
        if size > MAX_HARNESS_BYTES:
            raise ToolRefused(f"the harness would have {size} bytes; allowed: {MAX_HARNESS_BYTES}")
        if name not in self._files and len(self._files) >= MAX_HARNESS_FILES:
            raise ToolRefused(f"the harness has {MAX_HARNESS_FILES} files already, and may not have more")
        self._files[name] = text

    def delete(self, name: str) -> None:
        """Delete a file that exists."""
        del self._files[name]

    def fault(self) -> str:
        """Return the reason why this cannot be a harness, as one line; empty when it can."""
        if self.entry not in self._files:
            return f"the harness has no {self.entry}, which is the program that is run"
        fault = syntax_fault(self._files)
        return f"it does not parse: {fault}" if fault else ""


def digest_of_files(files: Mapping[str, str]) -> str:
    """Return a short hash of a harness's content, to recognise it in a later generation."""
    return hashlib.sha256(json.dumps(dict(files), sort_keys=True).encode()).hexdigest()[:16]


def split_path(path: str) -> tuple[str, str]:
    """Return the root (evidence or harness) and the name inside it, empty for the root itself. Raises ToolRefused."""
    parts = PurePosixPath(path).parts
    if ".." in parts or path.startswith("/") or "\0" in path:
        raise ToolRefused(f"{_quoted(path)} leads out of evidence/ and harness/; nothing else can be reached")
    if not parts or parts[0] not in ("evidence", "harness"):
        raise ToolRefused(f"{_quoted(path)} is neither in evidence/ nor in harness/; paths begin with one of the two")
    return parts[0], "/".join(parts[1:])


def writable_name(path: str) -> str:
    """Return the name inside harness/. Raises ToolRefused."""
    root, name = split_path(path)
    if root == "evidence":
        raise ToolRefused("evidence/ is read-only; what you change is in harness/")
    if not name:
        raise ToolRefused("harness/ is the folder; name a file in it")
    return name


def _quoted(text: str) -> str:
    return repr(text if len(text) <= 120 else text[:120] + "…")


@dataclass(frozen=True, slots=True)
class Submission:
    """A submission that was accepted."""

    title: str
    rationale: str
    expected_effect: str
    algorithm: str | None = None  # to train the weights with; None: the harness alone is proposed


@dataclass(slots=True)
class ProposalWorkspace:
    """The state that the tools of one proposal work on."""

    evidence: Mapping[str, str]  # read-only for the model: name -> text
    draft: Draft
    workbench: Workbench
    trials: int  # runs on dev questions that are left
    questions: int  # of one such run
    answer_bytes: int  # bytes of one tool's answer
    first: bool  # generation 1: the harness as it is may be proposed
    earlier: Mapping[str, str] = field(default_factory=dict)  # digest of a proposed harness -> what became of it
    start_value: float | None = None  # of the harness it starts from, in an earlier trial on the same questions
    candidates: tuple[int, ...] = ()  # earlier generations that can be opened
    weights: WeightsLever | None = None  # None: they are not to be trained
    tried: dict[str, Trial] = field(default_factory=dict)  # by digest of the harness, in order
    measured: dict[str, MeasuredRewards] = field(default_factory=dict)  # by digest of the harness
    decision: Submission | str | None = None  # a text is the reason why nothing is left to try

    def _files_in(self, root: str) -> Mapping[str, str]:
        return self.evidence if root == "evidence" else self.draft.files

    def text(self, root: str, name: str) -> str:
        """Return the text of a file. Raises ToolRefused where there is none."""
        files = self._files_in(root)
        if name in files:
            return files[name]
        if any(not name or other.startswith(f"{name}/") for other in files):
            raise ToolRefused(f"{root}/{name} is a folder; list_files shows what is in it")
        raise ToolRefused(f"there is no file {root}/{name[:120]}; list_files shows what there is")

    def under(self, folder: str) -> dict[str, str]:
        """Return path -> text of a file, a folder or (empty) both roots. Raises ToolRefused where there is nothing."""
        roots = [split_path(folder)] if folder.strip("./") else [("evidence", ""), ("harness", "")]
        texts = {
            f"{root}/{name}": text
            for root, inside in roots
            for name, text in sorted(self._files_in(root).items())
            if not inside or name == inside or name.startswith(f"{inside}/")
        }
        if not texts:
            raise ToolRefused(f"there is nothing in {_quoted(folder)}")
        return texts


def trial_notes(workspace: ProposalWorkspace) -> list[dict[str, Any]]:
    """Return the trials of a proposal for its notes, which come back in the history of every later generation."""
    return [
        {"digest": digest, "value": trial.value, "n": trial.n, "failure": trial.failure[:200]}
        for digest, trial in workspace.tried.items()
    ]


def clip_text(text: str, limit: int) -> str:
    """Return head and tail of a text, at most `limit` bytes of UTF-8, with a mark where something is missing."""
    raw = text.encode(errors="replace")
    if len(raw) <= limit:
        return raw.decode()
    mark = f"\n[… {len(raw) - limit} bytes left out …]\n"
    keep = max(0, limit - len(mark.encode()))
    head = keep * 2 // 3
    tail = raw[len(raw) - (keep - head) :].decode(errors="ignore") if keep > head else ""
    return raw[:head].decode(errors="ignore") + mark + tail
