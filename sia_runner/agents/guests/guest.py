"""Runs agents of other packages as proposers: prepares a workspace, runs the agent in the sandbox, reads the result."""

import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import ClassVar

from sia_runner.agents.folder import read_text_files
from sia_runner.agents.guests.left import proposal
from sia_runner.agents.guests.prompt import instructions
from sia_runner.agents.protocol import Brief, Context, Files, ProposerError, Workbench
from sia_runner.records import Proposal

_PROGRAMS = Path(__file__).parent / "guest_programs"


class Guest:
    """A proposer that is another package's agent. A driver program runs it in the sandbox, never on the host."""

    name: ClassVar[str]  # of its YAML, its extra and its driver program
    needs: ClassVar[tuple[str, ...]]  # modules of its package

    def __init__(self, context: Context, *, turns: int, seconds: float) -> None:
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
        return proposal(self.name, brief, start, hosted)

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
        return read_text_files(source, self._context.entry)

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
