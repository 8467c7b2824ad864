"""Runs agents of other packages as proposers, in the sandbox. A model wrote the result: nothing in it is trusted."""

import json
import re
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar, cast

from sia_runner.proposers.files import CACHE_FOLDERS, read_harness_files
from sia_runner.proposers.llm_tools import TryHarness
from sia_runner.proposers.llm_workspace import Draft, ProposalWorkspace, ToolRefused, trial_notes
from sia_runner.proposers.prompting import describe_parent, render_prompt, task_facts
from sia_runner.proposers.protocol import Brief, Files, GuestResult, ProposerContext, ProposerError, Workbench
from sia_runner.records import Json, Lever, Proposal
from sia_runner.text import one_line, strip_control_characters

_PROGRAMS = Path(__file__).parent / "guest_programs"

_ANSWER_BYTES = 24 * 1024  # bytes of the answer to one trial
_FAILURES_SHOWN = 200  # dev failures of an earlier candidate
LAST_MESSAGE_FILE = ".proposal.json"  # guest_programs/workspace.py writes it into the harness's folder
_MESSAGE_CHARACTERS, _TITLE_CHARACTERS, _REASON_CHARACTERS = 256 * 1024, 100, 6000  # characters that are read or kept


def guest_proposal(guest: str, brief: Brief, start: Files, hosted: GuestResult) -> Proposal:
    """Return the proposal of a guest's changed harness.

    Without a change it has no files, which fails in the build stage; only the first harness may be the reference's.
    """
    words, interruption = _last_message(hosted)
    heading, _, rest = words.strip().partition("\n")
    title, reason = one_line(heading.strip("#*` "), _TITLE_CHARACTERS), rest.strip()[:_REASON_CHARACTERS]
    files = {name: text for name, text in hosted.files.items() if _is_source(name)}
    changed = sorted(name for name in {*files, *start} if files.get(name) != start.get(name))
    if not changed and not brief.first and re.match(r"STOP\b", title):
        return Proposal(Lever.STOP, one_line(f"{title} {reason}", _REASON_CHARACTERS), usage=hosted.usage)
    if not changed and (interruption or not brief.first):
        why = f"{guest} changed nothing{f': {interruption}' if interruption else ''}"
        title = one_line(why, _TITLE_CHARACTERS)
        return Proposal(Lever.HARNESS, f"{why}. {reason}".strip(), title=title, usage=hosted.usage)
    title = title or one_line(f"{guest}: {', '.join(changed[:3]) or 'the reference harness'}", _TITLE_CHARACTERS)
    cut = f"{guest} was cut short ({interruption}); this is the harness as it stood then." if interruption else ""
    reason = "\n\n".join(part for part in (reason, cut) if part) or f"{guest} gave no reason."
    names = "\n".join(f"- `{one_line(name, 120).replace('`', '')}`" for name in changed[:50]) or "- none"
    improvement = f"# Generation {brief.n}: {title}\n\n{reason}\n\n## Files changed\n{names}\n"
    return Proposal(Lever.HARNESS, reason, files=files, title=title, improvement=improvement, usage=hosted.usage)


def _last_message(hosted: GuestResult) -> tuple[str, str]:
    """Return the agent's last message and why it was cut short (empty: it ended by itself)."""
    text = hosted.files.get(LAST_MESSAGE_FILE, "")
    try:
        message: Any = json.loads(text) if len(text) <= _MESSAGE_CHARACTERS else None
    except (ValueError, RecursionError):
        message = None
    match message:
        case {"words": str(words), "ended": str(ended)}:
            # JSON can spell half a surrogate pair, which no file could hold
            words, ended = (part.encode("utf-8", "replace").decode("utf-8") for part in (words, ended))
            return strip_control_characters(words), one_line(ended or hosted.failure, 500)
        case _:
            return "", one_line(hosted.failure, 500) or "it left no word"


def _is_source(name: str) -> bool:
    parts = PurePosixPath(name).parts
    return name.isprintable() and not any(part.startswith(".") or part in CACHE_FOLDERS for part in parts)


def _installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # the package around it is missing
        return False


class GuestServices:
    """Serves a guest with the tools of `llm` that need the host, within the same limits.

    What a guest sends is checked as a model's tool calls are.
    """

    def __init__(self, entry: str, brief: Brief, workbench: Workbench, trials: int, questions: int) -> None:
        self._entry, self._brief, self._workbench = entry, brief, workbench
        self._space = ProposalWorkspace({}, Draft({}, entry), workbench, trials, questions, _ANSWER_BYTES, brief.first)

    def try_harness(self, body: Json) -> Json:
        """Run the files of ``{"files": {name: text}}`` on a few dev questions; return the result as text."""
        draft, files = Draft({}, self._entry), body.get("files")
        try:
            if not isinstance(files, dict):
                raise ToolRefused('give {"files": {name: text}}')
            for name, text in cast("dict[str, Any]", files).items():
                if not isinstance(text, str):
                    raise ToolRefused(f"{name[:120]}: its text is missing")
                draft.write(name, text)
            self._space.draft = draft
            return {"text": TryHarness.call(self._space, ""), "trials": self._space.trials}
        except ToolRefused as refused:
            return {"error": str(refused), "trials": self._space.trials}

    def open_candidate(self, body: Json) -> Json:
        """Return files and dev failures of the earlier candidate of ``{"generation": n}``."""
        n, numbers = body.get("generation"), [past.n for past in self._brief.history]
        if self._brief.first or type(n) is not int or n not in numbers:
            there_are = ", ".join(map(str, numbers)) or "none"
            return {"error": f"no earlier generation {str(n)[:20]}; there are: {there_are}"}
        candidate = self._workbench.earlier_candidate(n)
        return {"files": dict(candidate.files), "failures": list(candidate.failures[:_FAILURES_SHOWN])}

    def trials_json(self) -> list[Json]:
        """Return the trials as the notes of a proposal keep them, as `llm` does."""
        return trial_notes(self._space)


class GuestProposer:
    """A proposer that is another package's agent. A driver program runs it in the sandbox, never on the host."""

    name: ClassVar[str]  # of its YAML, its extra and its driver program
    needs: ClassVar[tuple[str, ...]]  # modules of its package

    def __init__(
        self, context: ProposerContext, *, turns: int, seconds: float, trials: int, trial_questions: int
    ) -> None:
        self._context, self._turns, self._seconds = context, turns, seconds
        self._trials, self._questions = trials, trial_questions
        self.check()

    @classmethod
    def check(cls) -> None:
        """Raise ProposerError where the package is missing. Imports nothing of it."""
        if not all(_installed(module) for module in cls.needs):
            extra = cls.name.replace("_", "-")  # older pips know an extra by this spelling only
            raise ProposerError(f"meta_agent={cls.name} needs the extra: pip install 'sia-runner[{extra}]'")

    def propose(self, brief: Brief, workbench: Workbench) -> Proposal:
        """Run the agent on the parent's harness and make a proposal of its changes."""
        parent = brief.evidence / "harness" if brief.evidence else None
        source = parent if parent and parent.is_dir() else self._context.reference
        start = read_harness_files(source, self._context.entry)
        services = GuestServices(self._context.entry, brief, workbench, self._allowed_trials(brief), self._questions)
        with self._inputs(brief) as inputs:
            hosted = workbench.host(
                self._program(brief),
                "main.py",
                inputs=inputs,
                harness=start,
                calls=self._turns,
                seconds=self._seconds,
                services={"try": services.try_harness, "candidate": services.open_candidate},
            )
        proposal = guest_proposal(self.name, brief, start, hosted)
        return replace(proposal, notes={**proposal.notes, "trials": services.trials_json()})

    def _allowed_trials(self, brief: Brief) -> int:
        return 0 if brief.blind else self._trials

    @contextmanager
    def _inputs(self, brief: Brief) -> Iterator[Path]:
        """Yield the evidence folder; for the first harness, a folder with the task's description."""
        if brief.evidence is not None:
            yield brief.evidence
            return
        with tempfile.TemporaryDirectory(prefix="sia-guest-", ignore_cleanup_errors=True) as folder:
            Path(folder).chmod(0o755)  # a guest may run as another user
            Path(folder, "task.md").write_text(self._context.description, encoding="utf-8")
            yield Path(folder)

    def _program(self, brief: Brief) -> Files:
        # the prompt still holds the marks @HARNESS@ and @EVIDENCE@: only the sandbox knows those paths
        prompt = render_prompt(
            "guests/instructions.md.j2",
            **task_facts(self._context, brief),
            start=_describe_start(brief),
            turns=self._turns,
            allowed=f"{self._seconds:.0f}",
            trials=self._allowed_trials(brief),
            questions=self._questions,
            earlier=not brief.first and bool(brief.history),
        )
        names = ("main.py", "workspace.py", "ask_host.py")
        sources = {**{name: name for name in names}, "driver.py": f"drive_{self.name}.py"}
        programs = {name: (_PROGRAMS / source).read_text(encoding="utf-8") for name, source in sources.items()}
        return {**programs, "prompt.md": prompt, "settings.json": json.dumps({"turns": self._turns})}


def _describe_start(brief: Brief) -> str:
    if brief.evidence is None:
        return "It starts as the task's reference harness."
    if brief.parent is None:
        return "No earlier harness could be scored, so it starts as the task's reference harness again."
    return describe_parent(brief, "It starts as that of")


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
