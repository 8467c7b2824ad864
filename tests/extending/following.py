"""A page of docs/ followed as a user would: its files written outside the package, its commands run as they stand."""

import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from tests.conftest import ROOT
from tests.provider import Answer


@dataclass(frozen=True)
class Section:
    """A part of a page: `files` are its blocks with a name, `commands` its shell blocks, `written` the names."""

    files: dict[str, str]
    commands: list[str]
    written: set[str]


def page(name):
    return (ROOT / "docs" / name).read_text(encoding="utf-8")


def section(text):
    blocks = re.findall(r"^```(\w+)(?: (\S+))?\n(.*?)^```", text, re.S | re.M)
    return Section(
        files={path: body for language, path, body in blocks if language != "sh"},
        commands=[body for language, _, body in blocks if language == "sh"],
        written={path for _, path, _ in blocks if path},
    )


def add(request):
    """A model that can add."""
    return Answer(str(sum(int(word) for word in re.findall(r"\d+", request.last)[-2:])))


class Workplace:
    """A user's folder outside the package, with the files of `sections` in it."""

    def __init__(self, folder, sections, **env):
        programs = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        self.folder = folder
        self.env = os.environ | {"PATH": programs, "PYTHONPATH": f"{folder}{os.pathsep}{ROOT}"} | env
        self._done = set()
        for part in sections:
            for path, text in part.files.items():
                (folder / path).parent.mkdir(parents=True, exist_ok=True)
                (folder / path).write_text(text)

    def follow(self, part):
        """Run each command of a section, once."""
        for command in part.commands:
            if command not in self._done:
                done = self.sh(command)
                assert done.returncode == 0, f"{command}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
                self._done.add(command)

    def sh(self, command):
        return subprocess.run(
            ["sh", "-e", "-c", command], cwd=self.folder, env=self.env, capture_output=True, text=True, timeout=400
        )

    def summary(self, run):
        return json.loads((self.folder / "runs" / run / "summary.json").read_text())
