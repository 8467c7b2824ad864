"""Defines what a tool is, and the tools that read and change files: list, read, search, write, edit, delete."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from sia_runner.proposers import llm_workspace
from sia_runner.proposers.llm_workspace import ProposalWorkspace, ToolRefused, clip_text, syntax_fault

_MAX_FAULTS = 5


class ToolArguments(BaseModel):
    """The arguments of a tool call; unknown keys are refused."""

    model_config = ConfigDict(extra="forbid")


@dataclass(frozen=True, slots=True)
class Tool:
    """A tool that the model may call."""

    name: str
    description: str  # for the model
    arguments: type[ToolArguments]
    run: Callable[[ProposalWorkspace, Any], str]

    def schema(self) -> dict[str, Any]:
        """Return the tool's schema in the shape of OpenAI's `tools`."""
        parameters = _untitled(self.arguments.model_json_schema())
        parameters.pop("description", None)
        return {
            "type": "function",
            "function": {"name": self.name, "description": self.description, "parameters": parameters},
        }

    def call(self, desk: ProposalWorkspace, arguments: str) -> str:
        """Carry out a call with JSON arguments. Raises Refused with all that is wrong with them."""
        try:
            parsed = self.arguments.model_validate_json(arguments.strip() or "{}")
        except ValidationError as error:
            raise ToolRefused(f"{self.name}: {_faults(error)}") from None
        return desk.clip(self.run(desk, parsed))


def _faults(error: ValidationError) -> str:
    """Describe the errors without repeating the input, which may be huge."""
    errors = error.errors(include_url=False, include_input=False, include_context=False)
    lines = [
        f"{'.'.join(str(part)[:60] for part in detail['loc']) or 'arguments'}: {detail['msg']}" for detail in errors
    ]
    return "; ".join(lines[:_MAX_FAULTS])[:600]


def _untitled(schema: Any) -> Any:
    """Remove the titles that pydantic makes of names; a *property* called title stays."""
    if not isinstance(schema, dict):
        return schema
    properties = {key: value for key, value in schema.items() if not (key == "title" and isinstance(value, str))}
    return {key: _untitled(value) for key, value in properties.items()}


_MAX_LISTED = 400


class ListFilesArguments(ToolArguments):
    """The arguments of `list_files`."""

    folder: str = Field("", description="evidence, harness, or a folder in one of them; empty: both")


def _list_files(desk: ProposalWorkspace, arguments: ListFilesArguments) -> str:
    files = desk.under(arguments.folder)
    lines = [f"{path}  {len(text.encode(errors='replace'))} bytes" for path, text in files.items()]
    more = [f"… and {len(lines) - _MAX_LISTED} more; name a folder"] if len(lines) > _MAX_LISTED else []
    return "\n".join(lines[:_MAX_LISTED] + more)


LIST_FILES = Tool(
    "list_files", "List the files of evidence/ and harness/ with their sizes.", ListFilesArguments, _list_files
)


class ReadFileArguments(ToolArguments):
    """The arguments of `read_file`."""

    path: str = Field(description="evidence/... or harness/...")
    offset: Annotated[int, Field(ge=1)] = Field(1, description="first line, counted from 1")
    limit: Annotated[int, Field(ge=1)] = Field(1000, description="most lines")


def _read_file(desk: ProposalWorkspace, arguments: ReadFileArguments) -> str:
    root, name = llm_workspace.split_path(arguments.path)
    lines = desk.text(root, name).split("\n")
    if lines[-1] == "":
        lines.pop()  # a final newline starts no line
    if arguments.offset > max(1, len(lines)):
        raise ToolRefused(f"{root}/{name} has {len(lines)} lines")
    selected, remaining = [], desk.answer_bytes - 200  # for the headline
    for line in lines[arguments.offset - 1 : arguments.offset - 1 + arguments.limit]:
        cut = clip_text(line, desk.answer_bytes // 2)
        remaining -= len(cut.encode(errors="replace")) + 1
        if remaining < 0:
            break
        selected.append(cut)
    last = arguments.offset - 1 + len(selected)
    more = f"; read on with offset={last + 1}" if last < len(lines) else ""
    return "\n".join([f"[{root}/{name}: lines {arguments.offset} to {last} of {len(lines)}{more}]", *selected])


READ_FILE = Tool(
    "read_file",
    "Read a text file. What is too long is cut, and the first line of the answer says where to read on.",
    ReadFileArguments,
    _read_file,
)


_MAX_MATCHES = 100  # lines
_BEFORE, _AFTER = 60, 180  # characters shown around a match
_PATTERN_CHARACTERS = 1000  # characters


class SearchArguments(ToolArguments):
    """The arguments of `search`."""

    pattern: str = Field(
        min_length=1, max_length=_PATTERN_CHARACTERS, description="plain text, or a regular expression"
    )
    regex: bool = Field(False, description="pattern is a regular expression of Python's re, matched line by line")
    ignore_case: bool = False
    folder: str = Field("", description="evidence, harness, a folder or a file in one of them; empty: both")


def _search(desk: ProposalWorkspace, arguments: SearchArguments) -> str:
    files = desk.under(arguments.folder)
    if arguments.regex:
        try:
            matches = llm_workspace.find_matches(
                files, arguments.pattern, ignore_case=arguments.ignore_case, limit=_MAX_MATCHES
            )
        except llm_workspace.ChildProcessFailed as fault:
            raise ToolRefused(f"search: {fault}") from None
    else:
        matches = _plain_matches(files, arguments.pattern, arguments.ignore_case)
    if not matches:
        return "no match"
    lines = {name: files[name].split("\n") for name, _, _ in matches}
    excerpts = [f"{name}:{line}: {_excerpt(lines[name][line - 1], column)}" for name, line, column in matches]
    return "\n".join(
        excerpts + ([f"… only the first {_MAX_MATCHES} matches are shown"] if len(matches) == _MAX_MATCHES else [])
    )


def _plain_matches(files: dict[str, str], part: str, ignore_case: bool) -> list[tuple[str, int, int]]:
    matches: list[tuple[str, int, int]] = []
    part = part.lower() if ignore_case else part
    for name, text in files.items():
        for number, line in enumerate(text.split("\n"), start=1):
            column = (line.lower() if ignore_case else line).find(part)
            if column >= 0:
                matches.append((name, number, column))
                if len(matches) == _MAX_MATCHES:
                    return matches
    return matches


def _excerpt(line: str, column: int) -> str:
    begin, end = max(0, column - _BEFORE), column + _AFTER
    return f"{'…' if begin else ''}{line[begin:end]}{'…' if end < len(line) else ''}"


SEARCH = Tool("search", "Find the lines of files that hold a text.", SearchArguments, _search)


class WriteFileArguments(ToolArguments):
    """The arguments of `write_file`."""

    path: str = Field(description="harness/...")
    content: str = Field(description="the whole new text of the file")


def _write_file(desk: ProposalWorkspace, arguments: WriteFileArguments) -> str:
    name = llm_workspace.writable_name(arguments.path)
    desk.draft.write(name, arguments.content)
    return describe_written(name, arguments.content)


def describe_written(name: str, text: str) -> str:
    """Return the answer to a write: the file's lines and its syntax error, which is cheapest to mend now."""
    fault = syntax_fault({name: text})
    count = len(text.splitlines())
    return f"harness/{name} has {count} lines now" + (f". It does not parse: {fault}" if fault else "")


WRITE_FILE = Tool(
    "write_file", "Write a file of the harness whole; it is replaced if it is there.", WriteFileArguments, _write_file
)


class EditFileArguments(ToolArguments):
    """The arguments of `edit_file`."""

    path: str = Field(description="harness/...")
    old: str = Field(
        min_length=1, description="text that occurs exactly once in the file, spaces and newlines included"
    )
    new: str = Field(description="what stands there afterwards")


def _edit_file(desk: ProposalWorkspace, arguments: EditFileArguments) -> str:
    name = llm_workspace.writable_name(arguments.path)
    text = desk.text("harness", name)
    count = _occurrences(text, arguments.old)
    if count != 1:
        problem = "does not occur" if count == 0 else "occurs more than once"
        raise ToolRefused(f"edit_file: `old` {problem} in harness/{name}; nothing was changed")
    edited = text.replace(arguments.old, arguments.new)
    desk.draft.write(name, edited)
    return describe_written(name, edited)


def _occurrences(text: str, part: str) -> int:
    """Return 0, 1, or 2 for more. Overlapping ones count: it is unclear which of them is meant."""
    first = text.find(part)
    if first < 0:
        return 0
    return 1 if text.find(part, first + 1) < 0 else 2


EDIT_FILE = Tool(
    "edit_file", "Replace a text that occurs exactly once in a file of the harness.", EditFileArguments, _edit_file
)


class DeleteFileArguments(ToolArguments):
    """The arguments of `delete_file`."""

    path: str = Field(description="harness/...")


def _delete_file(desk: ProposalWorkspace, arguments: DeleteFileArguments) -> str:
    name = llm_workspace.writable_name(arguments.path)
    desk.text("harness", name)
    desk.draft.delete(name)
    return f"harness/{name} is deleted"


DELETE_FILE = Tool("delete_file", "Delete a file of the harness.", DeleteFileArguments, _delete_file)
