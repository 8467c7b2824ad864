"""Runs agents of other packages as proposers: prepares a workspace, runs the agent in the sandbox, reads the result.

A model wrote all of the result, so nothing in it is trusted.
"""

import json
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar

from sia_runner.proposers import prompting
from sia_runner.proposers.files import read_harness_files
from sia_runner.proposers.prompting import render_markdown
from sia_runner.proposers.protocol import Brief, Files, GuestResult, ProposerContext, ProposerError, Workbench
from sia_runner.records import Lever, Proposal

_PROMPTS = Path(__file__).parent / "prompts" / "guests"


def instructions(context: ProposerContext, brief: Brief, *, turns: int, seconds: float) -> str:
    """Return the instructions.

    They still hold the marks `@HARNESS@` and `@EVIDENCE@`: only the sandbox knows those paths.
    """
    return render_markdown(
        _PROMPTS,
        "instructions.md.j2",
        first=brief.evidence is None,
        task=context.task_name,
        n=brief.n,
        max_gen=brief.max_gen,
        start=_describe_start(brief),
        entry=context.entry,
        submission=context.submission,
        seconds=f"{context.limits_seconds:.0f}",
        calls_model=context.calls_model,
        higher_is_better=brief.higher_is_better,
        direction=prompting.direction_for(brief, context.calls_model),
        sibling=brief.sibling,
        turns=turns,
        allowed=f"{seconds:.0f}",
    )


def _describe_start(brief: Brief) -> str:
    if brief.evidence is None:
        return "It starts as the task's reference harness."
    if brief.parent is None:
        return "No earlier harness could be scored, so it starts as the task's reference harness again."
    if brief.parent == brief.incumbent:
        return f"It starts as that of generation {brief.parent}, the best so far."
    best = f"; the best so far, which must be beaten, is generation {brief.incumbent}" if brief.incumbent else ""
    return f"It starts as that of generation {brief.parent}{best}."


LAST_MESSAGE_FILE = ".proposal.json"  # guest_programs/workspace.py writes it into the harness's folder
_MESSAGE_CHARACTERS, _TITLE_CHARACTERS, _REASON_CHARACTERS = 256 * 1024, 100, 6000  # characters that are read or kept
_STOP = re.compile(r"STOP\b")
_CACHE_FOLDERS = frozenset({"__pycache__", "node_modules"})


def guest_proposal(guest: str, brief: Brief, start: Files, hosted: GuestResult) -> Proposal:
    """Return the proposal of a guest's changed harness.

    A guest that changed nothing makes a proposal without files, which fails in the build stage; only in generation 1 is
    the unchanged reference harness a valid proposal.
    """
    words, interruption = _last_message(hosted)
    title, reason = _title_and_reason(words)
    files = {name: text for name, text in hosted.files.items() if _is_source(name)}
    changed = sorted(name for name in {*files, *start} if files.get(name) != start.get(name))
    if not changed and brief.n > 1 and _STOP.match(title):
        return Proposal(Lever.STOP, _one_line(f"{title} {reason}", _REASON_CHARACTERS), usage=hosted.usage)
    if not changed and (interruption or brief.n > 1):
        why = f"{guest} changed nothing{f': {interruption}' if interruption else ''}"
        return Proposal(
            Lever.HARNESS, f"{why}. {reason}".strip(), title=_one_line(why, _TITLE_CHARACTERS), usage=hosted.usage
        )
    title = title or _one_line(f"{guest}: {', '.join(changed[:3]) or 'the reference harness'}", _TITLE_CHARACTERS)
    cut = f"{guest} was cut short ({interruption}); this is the harness as it stood then." if interruption else ""
    reason = "\n\n".join(part for part in (reason, cut) if part) or f"{guest} gave no reason."
    return Proposal(
        Lever.HARNESS, reason, files=files, title=title, improvement=_improvement(brief.n, title, reason, changed),
        usage=hosted.usage,
    )  # fmt: skip


def _last_message(hosted: GuestResult) -> tuple[str, str]:
    """Return the agent's last message and why it was cut short (empty: it ended by itself)."""
    message = _parse_message(hosted.files.get(LAST_MESSAGE_FILE, ""))
    if message is None:
        return "", _one_line(hosted.failure, 500) or "it left no word"
    return message["words"], _one_line(message["ended"] or hosted.failure, 500)


def _parse_message(text: str) -> Mapping[str, str] | None:
    if len(text) > _MESSAGE_CHARACTERS:
        return None
    try:
        message: Any = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(message, dict) or not all(isinstance(message.get(key), str) for key in ("words", "ended")):
        return None
    # JSON can spell half a surrogate pair, which no file could hold
    return {key: message[key].encode("utf-8", "replace").decode("utf-8") for key in ("words", "ended")}


def _title_and_reason(words: str) -> tuple[str, str]:
    """Return title and reason: the first line without Markdown heading marks, and the rest."""
    first, _, rest = words.strip().partition("\n")
    printable = "".join(letter for letter in rest if letter.isprintable() or letter in "\n\t")
    return _one_line(first.strip("#*` "), _TITLE_CHARACTERS), printable.strip()[:_REASON_CHARACTERS]


def _one_line(text: str, limit: int) -> str:
    line = " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())
    return line if len(line) <= limit else line[: limit - 1] + "…"


def _is_source(name: str) -> bool:
    """Return whether a file belongs to the harness: not hidden, not in a cache, with a printable name."""
    parts = PurePosixPath(name).parts
    return name.isprintable() and not any(part.startswith(".") or part in _CACHE_FOLDERS for part in parts)


def _improvement(n: int, title: str, reason: str, changed: list[str]) -> str:
    files = "\n".join(f"- `{_one_line(name, 120).replace('`', '')}`" for name in changed[:50]) or "- none"
    return f"# Generation {n}: {title}\n\n{reason}\n\n## Files changed\n{files}\n"


_PROGRAMS = Path(__file__).parent / "guest_programs"


class GuestProposer:
    """A proposer that is another package's agent. A driver program runs it in the sandbox, never on the host."""

    name: ClassVar[str]  # of its YAML, its extra and its driver program
    needs: ClassVar[tuple[str, ...]]  # modules of its package

    def __init__(self, context: ProposerContext, *, turns: int, seconds: float) -> None:
        self._context, self._turns, self._seconds = context, turns, seconds
        self.check()

    @classmethod
    def check(cls) -> None:
        """Raise ProposerError where the package is missing. Imports nothing of it."""
        if not all(_installed(module) for module in cls.needs):
            extra = cls.name.replace("_", "-")  # older pips know an extra by this spelling only
            raise ProposerError(f"meta_agent={cls.name} needs the extra: pip install 'sia-runner[{extra}]'")

    def propose(self, brief: Brief, workbench: Workbench) -> Proposal:
        """Run the agent on the parent's harness and make a proposal of its changes."""
        with self._inputs(brief) as inputs:
            start = self._parent(brief)
            hosted = workbench.host(
                self._program(brief), "main.py", inputs=inputs, harness=start, calls=self._turns, seconds=self._seconds
            )
        return guest_proposal(self.name, brief, start, hosted)

    @contextmanager
    def _inputs(self, brief: Brief) -> Iterator[Path]:
        """Yield the evidence folder; for the first harness, a folder with the task's description."""
        if brief.evidence is not None:
            yield brief.evidence
            return
        folder = Path(tempfile.mkdtemp(prefix="sia-guest-"))
        folder.chmod(0o755)  # a guest may run as another user
        try:
            (folder / "task.md").write_text(self._context.description, encoding="utf-8")
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _parent(self, brief: Brief) -> Files:
        """Return the files that the guest changes: the parent's harness, or the task's reference harness."""
        parents = brief.evidence / "harness" if brief.evidence else None
        source = parents if parents and parents.is_dir() else self._context.reference
        return read_harness_files(source, self._context.entry)

    def _program(self, brief: Brief) -> Files:
        return {
            "main.py": (_PROGRAMS / "main.py").read_text(encoding="utf-8"),
            "workspace.py": (_PROGRAMS / "workspace.py").read_text(encoding="utf-8"),
            "driver.py": (_PROGRAMS / f"drive_{self.name}.py").read_text(encoding="utf-8"),
            "prompt.md": instructions(self._context, brief, turns=self._turns, seconds=self._seconds),
            "settings.json": json.dumps({"turns": self._turns}),
        }


def _installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # the package around it is missing
        return False


class ClaudeCode(GuestProposer):
    """Claude Code as a guest."""

    name = "claude_code"
    needs = ("claude_agent_sdk",)


class OpenHands(GuestProposer):
    """An OpenHands agent as a guest."""

    name = "openhands"
    needs = ("openhands.sdk", "openhands.tools")

    @classmethod
    def check(cls) -> None:
        """Raise ProposerError where Python is too old or the package is missing."""
        if sys.version_info < (3, 12):
            version = f"{sys.version_info.major}.{sys.version_info.minor}"
            raise ProposerError(
                f"meta_agent=openhands needs Python 3.12 or newer, as its package does; this is {version}"
            )
        super().check()


class PydanticAI(GuestProposer):
    """A Pydantic AI agent as a guest."""

    name = "pydantic_ai"
    needs = ("pydantic_ai", "openai")
