"""From what a guest left behind to a typed proposal. All of it was written by a model: nothing of it is trusted."""

import json
import re
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

from sia_runner.agents.protocol import Brief, Files, Hosted
from sia_runner.records import Lever, Proposal

WORDS = ".proposal.json"  # programs/workspace.py writes it into the harness's folder
_FILE, _TITLE, _REASON = 256 * 1024, 100, 6000  # characters that are read or kept
_STOP = re.compile(r"STOP\b")
_NOT_SOURCE = frozenset({"__pycache__", "node_modules"})


def proposal(guest: str, brief: Brief, given: Files, hosted: Hosted) -> Proposal:
    """The harness as the guest left it, where it changed it. A guest that changed nothing makes a proposal without
    files, which fails when it is built; only for the first generation the reference harness may stay as it is."""
    words, ended = _last_words(hosted)
    title, reason = _split(words)
    files = {name: text for name, text in hosted.files.items() if _is_source(name)}
    changed = sorted(name for name in {*files, *given} if files.get(name) != given.get(name))
    if not changed and brief.n > 1 and _STOP.match(title):
        return Proposal(Lever.STOP, _line(f"{title} {reason}", _REASON), usage=hosted.usage)
    if not changed and (ended or brief.n > 1):
        why = f"{guest} changed nothing{f': {ended}' if ended else ''}"
        return Proposal(Lever.HARNESS, f"{why}. {reason}".strip(), title=_line(why, _TITLE), usage=hosted.usage)
    title = title or _line(f"{guest}: {', '.join(changed[:3]) or 'the reference harness'}", _TITLE)
    cut = f"{guest} was cut short ({ended}); this is the harness as it stood then." if ended else ""
    reason = "\n\n".join(part for part in (reason, cut) if part) or f"{guest} gave no reason."
    return Proposal(
        Lever.HARNESS, reason, files=files, title=title, improvement=_improvement(brief.n, title, reason, changed),
        usage=hosted.usage,
    )  # fmt: skip


def _last_words(hosted: Hosted) -> tuple[str, str]:
    """The agent's last message, and why it was cut short (empty: it came to an end of its own)."""
    said = _read(hosted.files.get(WORDS, ""))
    if said is None:
        return "", _line(hosted.failure, 500) or "it left no word"
    return said["words"], _line(said["ended"] or hosted.failure, 500)


def _read(text: str) -> Mapping[str, str] | None:
    if len(text) > _FILE:
        return None
    try:
        said: Any = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(said, dict) or not all(isinstance(said.get(key), str) for key in ("words", "ended")):
        return None
    # JSON can spell half a surrogate pair, which no file could hold
    return {key: said[key].encode("utf-8", "replace").decode("utf-8") for key in ("words", "ended")}


def _split(words: str) -> tuple[str, str]:
    """Title and reason: the first line, without the marks of a Markdown heading, and the rest."""
    first, _, rest = words.strip().partition("\n")
    kept = "".join(letter for letter in rest if letter.isprintable() or letter in "\n\t")
    return _line(first.strip("#*` "), _TITLE), kept.strip()[:_REASON]


def _line(text: str, most: int) -> str:
    line = " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())
    return line if len(line) <= most else line[: most - 1] + "…"


def _is_source(name: str) -> bool:
    """Hidden files and caches are none, nor are names that no text can hold."""
    parts = PurePosixPath(name).parts
    return name.isprintable() and not any(part.startswith(".") or part in _NOT_SOURCE for part in parts)


def _improvement(n: int, title: str, reason: str, changed: list[str]) -> str:
    files = "\n".join(f"- `{_line(name, 120).replace('`', '')}`" for name in changed[:50]) or "- none"
    return f"# Generation {n}: {title}\n\n{reason}\n\n## Files changed\n{files}\n"
