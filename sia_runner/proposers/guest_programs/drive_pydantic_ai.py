"""Drives a Pydantic AI agent with a few file tools and a shell."""

# Its package is an extra and may be missing where types are checked.
# pyright: reportMissingImports=false, reportAttributeAccessIssue=false

import os
import subprocess
import tempfile
from collections.abc import Callable
from functools import wraps
from itertools import islice
from pathlib import Path
from typing import Any

from openai import AsyncOpenAI
from pydantic_ai import Agent, ModelRetry, UsageLimits
from pydantic_ai.exceptions import UsageLimitExceeded
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider
from workspace import Workspace

_SHOWN = 30_000  # characters of one tool's answer
_FILE = 1024 * 1024  # bytes of a file that is read
_LISTED = 500  # files
_SECONDS = 300  # of one command
_PATIENCE = 5  # calls of one tool that are refused in a row before the agent is given up


def list_files(folder: str) -> str:
    """List the files below a folder with their sizes in bytes; 500 at most."""
    paths = (os.path.join(where, name) for where, _, names in os.walk(folder) for name in sorted(names))  # noqa: PTH118
    lines = [f"{path} {os.lstat(path).st_size}" for path in islice(paths, _LISTED)]
    return "\n".join(lines) or f"no files in {folder}"


def read_file(path: str, offset: int = 0) -> str:
    """Read a text file from the line `offset` (counted from 0) on. Long answers are cut."""
    lines = _read(path).splitlines(keepends=True)
    return _cut("".join(lines[max(0, offset) :])) or "nothing there"


def write_file(path: str, text: str) -> str:
    """Write a file, replaced whole; folders on the way are made."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(text, encoding="utf-8", newline="")
    return f"{path} written"


def edit_file(path: str, old: str, new: str) -> str:
    """Replace `old`, which must occur exactly once in the file, by `new`."""
    text = _read(path)
    if text.count(old) != 1:
        raise ValueError(f"`old` occurs {text.count(old)} times in {path}; give text that occurs exactly once")
    return write_file(path, text.replace(old, new))


def run(command: str) -> str:
    """Run a bash command in the working folder; answers its exit code and output."""
    with tempfile.TemporaryFile() as output:  # not a pipe: a command may print without end
        try:
            done = subprocess.run(
                ["bash", "-c", command], stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                timeout=_SECONDS, check=False,
            )  # fmt: skip
            result = f"exit code {done.returncode}"
        except subprocess.TimeoutExpired:
            result = f"stopped after {_SECONDS} s"
        output.seek(0)
        return f"{result}\n{_cut(output.read(_FILE).decode('utf-8', 'replace'))}"


def _read(path: str) -> str:
    if not Path(path).is_file():
        raise ValueError(f"{path} is no file")
    with Path(path).open("rb") as file:
        data = file.read(_FILE + 1)
    if len(data) > _FILE:
        raise ValueError(f"{path} has more than {_FILE} bytes; look at a part of it with `run`")
    return data.decode("utf-8", "replace")


def _cut(text: str) -> str:
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}\n... {len(text) - _SHOWN} more characters"


def _clean(text: str) -> str:
    """Replace half surrogate pairs, which cannot be sent; file names may hold them."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _tool(function: Callable[..., str]) -> Callable[..., str]:
    """Wrap a tool so that its errors are sent to the model."""

    @wraps(function)
    def reporting(*args: Any, **keywords: Any) -> str:
        try:
            return _clean(function(*args, **keywords))
        except (OSError, ValueError) as error:  # a missing file, an invalid name
            raise ModelRetry(_clean(f"{function.__name__}: {error}")) from None

    return reporting


def work(space: Workspace) -> tuple[str, str]:
    """Run the agent. Return its last message and why it was cut short."""
    client = AsyncOpenAI(max_retries=0)  # the environment says where; the gateway retries
    model = OpenAIChatModel(space.model, provider=OpenAIProvider(openai_client=client))
    tools = [_tool(function) for function in (list_files, read_file, write_file, edit_file, run)]
    agent = Agent(model, tools=tools, retries=_PATIENCE)
    try:
        done = agent.run_sync(space.prompt, usage_limits=UsageLimits(request_limit=space.turns))
    except UsageLimitExceeded:
        return "", f"it used its {space.turns} turns"
    return done.output, ""
