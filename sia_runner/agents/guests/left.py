"""Turns a guest's result into a typed proposal. A model wrote all of it, so nothing in it is trusted."""

import json
import re
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

from sia_runner.agents.protocol import Brief, Files, Hosted
from sia_runner.records import Lever, Proposal

WORDS = ".proposal.json"  # guest_programs/workspace.py writes it into the harness's folder
_FILE, _TITLE, _REASON = 256 * 1024, 100, 6000  # characters that are read or kept
_STOP = re.compile(r"STOP\b")
_NOT_SOURCE = frozenset({"__pycache__", "node_modules"})


def proposal(guest: str, brief: Brief, start: Files, hosted: Hosted) -> Proposal:
    """Return the proposal of a guest's changed harness.

    A guest that changed nothing makes a proposal without files, which fails in the build stage; only in generation 1 is
    the unchanged reference harness a valid proposal.
    """
    words, interruption = _last_words(hosted)
    title, reason = _split(words)
    files = {name: text for name, text in hosted.files.items() if _is_source(name)}
    changed = sorted(name for name in {*files, *start} if files.get(name) != start.get(name))
    if not changed and brief.n > 1 and _STOP.match(title):
        return Proposal(Lever.STOP, _line(f"{title} {reason}", _REASON), usage=hosted.usage)
    if not changed and (interruption or brief.n > 1):
        why = f"{guest} changed nothing{f': {interruption}' if interruption else ''}"
        return Proposal(Lever.HARNESS, f"{why}. {reason}".strip(), title=_line(why, _TITLE), usage=hosted.usage)
    title = title or _line(f"{guest}: {', '.join(changed[:3]) or 'the reference harness'}", _TITLE)
    cut = f"{guest} was cut short ({interruption}); this is the harness as it stood then." if interruption else ""
    reason = "\n\n".join(part for part in (reason, cut) if part) or f"{guest} gave no reason."
    return Proposal(
        Lever.HARNESS, reason, files=files, title=title, improvement=_improvement(brief.n, title, reason, changed),
        usage=hosted.usage,
    )  # fmt: skip


def _last_words(hosted: Hosted) -> tuple[str, str]:
    """Return the agent's last message and why it was cut short (empty: it ended by itself)."""
    message = _read(hosted.files.get(WORDS, ""))
    if message is None:
        return "", _line(hosted.failure, 500) or "it left no word"
    return message["words"], _line(message["ended"] or hosted.failure, 500)


def _read(text: str) -> Mapping[str, str] | None:
    if len(text) > _FILE:
        return None
    try:
        message: Any = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(message, dict) or not all(isinstance(message.get(key), str) for key in ("words", "ended")):
        return None
    # JSON can spell half a surrogate pair, which no file could hold
    return {key: message[key].encode("utf-8", "replace").decode("utf-8") for key in ("words", "ended")}


def _split(words: str) -> tuple[str, str]:
    """Return title and reason: the first line without Markdown heading marks, and the rest."""
    first, _, rest = words.strip().partition("\n")
    printable = "".join(letter for letter in rest if letter.isprintable() or letter in "\n\t")
    return _line(first.strip("#*` "), _TITLE), printable.strip()[:_REASON]


def _line(text: str, limit: int) -> str:
    line = " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())
    return line if len(line) <= limit else line[: limit - 1] + "…"


def _is_source(name: str) -> bool:
    """Return whether a file belongs to the harness: not hidden, not in a cache, with a printable name."""
    parts = PurePosixPath(name).parts
    return name.isprintable() and not any(part.startswith(".") or part in _NOT_SOURCE for part in parts)


def _improvement(n: int, title: str, reason: str, changed: list[str]) -> str:
    files = "\n".join(f"- `{_line(name, 120).replace('`', '')}`" for name in changed[:50]) or "- none"
    return f"# Generation {n}: {title}\n\n{reason}\n\n## Files changed\n{files}\n"
