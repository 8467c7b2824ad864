"""Finds text in files."""

from pydantic import Field

from sia_runner.agents.llm import apart
from sia_runner.agents.llm.desk import Desk
from sia_runner.agents.llm.draft import Refused
from sia_runner.agents.llm.tools.base import Arguments, Tool

_MOST = 100  # lines
_BEFORE, _AFTER = 60, 180  # characters shown around a match
_PATTERN = 1000  # characters


class Search(Arguments):
    """The arguments of `search`."""

    pattern: str = Field(min_length=1, max_length=_PATTERN, description="plain text, or a regular expression")
    regex: bool = Field(False, description="pattern is a regular expression of Python's re, matched line by line")
    ignore_case: bool = False
    folder: str = Field("", description="evidence, harness, a folder or a file in one of them; empty: both")


def _search(desk: Desk, arguments: Search) -> str:
    files = desk.under(arguments.folder)
    if arguments.regex:
        try:
            matches = apart.find(files, arguments.pattern, ignore_case=arguments.ignore_case, limit=_MOST)
        except apart.NotDone as fault:
            raise Refused(f"search: {fault}") from None
    else:
        matches = _plain(files, arguments.pattern, arguments.ignore_case)
    if not matches:
        return "no match"
    lines = {name: files[name].split("\n") for name, _, _ in matches}
    excerpts = [f"{name}:{line}: {_around(lines[name][line - 1], column)}" for name, line, column in matches]
    return "\n".join(excerpts + ([f"… only the first {_MOST} matches are shown"] if len(matches) == _MOST else []))


def _plain(files: dict[str, str], part: str, ignore_case: bool) -> list[tuple[str, int, int]]:
    matches: list[tuple[str, int, int]] = []
    part = part.lower() if ignore_case else part
    for name, text in files.items():
        for number, line in enumerate(text.split("\n"), start=1):
            column = (line.lower() if ignore_case else line).find(part)
            if column >= 0:
                matches.append((name, number, column))
                if len(matches) == _MOST:
                    return matches
    return matches


def _around(line: str, column: int) -> str:
    begin, end = max(0, column - _BEFORE), column + _AFTER
    return f"{'…' if begin else ''}{line[begin:end]}{'…' if end < len(line) else ''}"


SEARCH = Tool("search", "Find the lines of files that hold a text.", Search, _search)
