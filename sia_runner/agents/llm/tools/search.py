"""Find text in files."""

from pydantic import Field

from sia_runner.agents.llm import apart
from sia_runner.agents.llm.desk import Desk
from sia_runner.agents.llm.draft import Refused
from sia_runner.agents.llm.tools.base import Arguments, Tool

_MOST = 100  # lines
_BEFORE, _AFTER = 60, 180  # characters shown around a match
_PATTERN = 1000  # characters


class Search(Arguments):
    pattern: str = Field(min_length=1, max_length=_PATTERN, description="plain text, or a regular expression")
    regex: bool = Field(False, description="pattern is a regular expression of Python's re, matched line by line")
    ignore_case: bool = False
    folder: str = Field("", description="evidence, harness, a folder or a file in one of them; empty: both")


def _run(desk: Desk, given: Search) -> str:
    files = desk.under(given.folder)
    if given.regex:
        try:
            found = apart.find(files, given.pattern, ignore_case=given.ignore_case, most=_MOST)
        except apart.NotDone as fault:
            raise Refused(f"search: {fault}") from None
    else:
        found = _plain(files, given.pattern, given.ignore_case)
    if not found:
        return "no match"
    lines = {name: files[name].split("\n") for name, _, _ in found}
    shown = [f"{name}:{line}: {_around(lines[name][line - 1], column)}" for name, line, column in found]
    return "\n".join(shown + ([f"… only the first {_MOST} matches are shown"] if len(found) == _MOST else []))


def _plain(files: dict[str, str], wanted: str, ignore_case: bool) -> list[tuple[str, int, int]]:
    found: list[tuple[str, int, int]] = []
    wanted = wanted.lower() if ignore_case else wanted
    for name, text in files.items():
        for number, line in enumerate(text.split("\n"), start=1):
            column = (line.lower() if ignore_case else line).find(wanted)
            if column >= 0:
                found.append((name, number, column))
                if len(found) == _MOST:
                    return found
    return found


def _around(line: str, column: int) -> str:
    begin, end = max(0, column - _BEFORE), column + _AFTER
    return f"{'…' if begin else ''}{line[begin:end]}{'…' if end < len(line) else ''}"


TOOL = Tool("search", "Find the lines of files that hold a text.", Search, _run)
