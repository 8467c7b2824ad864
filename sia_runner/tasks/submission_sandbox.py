"""A sandbox for verifiers that must execute submissions: a program in the run's sandbox, spoken to line by line.

The verifier stays outside. It puts a program of its own (a driver) beside the submission, starts both in the sandbox
and sends requests; every answer is hostile: bounded in size, waited for no longer than allowed, a JSON object or
refused. Two pipes in the program's working folder carry the lines, ``asks`` and ``answers``; both are opened here
before the program starts, so that nothing it does to the names matters. Larger data goes into files of that folder.
"""

import contextlib
import json
import os
import select
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sia_runner.store.files import parse_object

_MAX_LINE_BYTES = 16 << 10  # bytes of an answer
_SHUTDOWN_SECONDS = 30.0  # seconds for the sandbox to be taken down


class SubmissionSandboxError(Exception):
    """The sandbox itself failed: nothing can be said about the submission."""


class ProgramEndedError(Exception):
    """The program does not answer any more. `ending`: one of the sandbox's endings, or ``late`` or ``gibberish``."""

    def __init__(self, ending: str, detail: str = "") -> None:
        super().__init__(detail or ending.replace("_", " "))
        self.ending = ending


@dataclass(frozen=True, slots=True)
class SubmissionSandbox:
    """A way to run programs in the sandbox of a run: `command` runs one job, and is empty where there is no sandbox."""

    command: Sequence[str]

    @contextlib.contextmanager
    def run(self, files: Mapping[str, bytes], entry: str, seconds: float) -> Iterator["SandboxedProgram"]:
        """Start program `entry` of `files` (name -> content) with the arguments ``--dataset_dir D --working_dir W``.

        D is empty. The program has `seconds` in all, and ends with this block. Raises SubmissionSandboxError where
        there is no sandbox.
        """
        if not self.command:
            raise SubmissionSandboxError("this verifier executes what was submitted and was given no sandbox")
        top = Path(tempfile.mkdtemp(prefix="sia-chamber-"))
        try:
            top.chmod(0o711)  # a sandbox may run the program as another user
            for name in ("harness", "data", "work"):
                (top / name).mkdir(mode=0o755)
            for name, content in files.items():
                (top / "harness" / name).write_bytes(content)
                (top / "harness" / name).chmod(0o444)
            program = SandboxedProgram(top / "work", self.command)
            try:
                program.begin({"top": str(top), "entry": entry, "seconds": seconds})
                yield program
            finally:
                program.end()
        finally:
            shutil.rmtree(top, ignore_errors=True)


class SandboxedProgram:
    """A program that runs in the sandbox."""

    def __init__(self, work: Path, command: Sequence[str]) -> None:
        self.work = work  # its working folder: what is in there is hostile, links included
        self._asks, self._answers = _make_pipe(work / "asks"), _make_pipe(work / "answers")
        self._process = subprocess.Popen(
            list(command), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd="/"
        )
        assert self._process.stdin and self._process.stdout  # noqa: S101 (for the type checker)
        self._job, self._report = self._process.stdin, self._process.stdout
        self._buffer = b""

    def begin(self, job: Mapping[str, Any]) -> None:
        """Tell the command what to run in the sandbox."""
        self._job.write(json.dumps(job).encode() + b"\n")
        self._job.flush()

    def tell(self, message: Mapping[str, Any]) -> None:
        """Send one line to the program. Keep it short: a pipe holds 64 KiB until it is read."""
        try:
            os.write(self._asks, json.dumps(message).encode() + b"\n")
        except BlockingIOError:
            raise ProgramEndedError("late", "it does not read what it is asked") from None

    def hear(self, seconds: float) -> dict[str, Any]:
        """Return the next line of the program, a JSON object. Raises ProgramEndedError where there is none in time."""
        deadline = time.monotonic() + seconds
        while b"\n" not in self._buffer:
            if len(self._buffer) > _MAX_LINE_BYTES:
                raise ProgramEndedError("gibberish", "it answers without end")
            remaining = deadline - time.monotonic()
            if remaining <= 0:
                raise ProgramEndedError("late", f"no answer within {seconds:g} s")
            ready, _, _ = select.select([self._answers, self._report], [], [], remaining)
            if self._answers in ready:
                self._buffer += os.read(self._answers, _MAX_LINE_BYTES)
            elif ready:
                raise self._ending_error()
        line, _, self._buffer = self._buffer.partition(b"\n")
        answer = parse_object(line)
        if answer is None:
            raise ProgramEndedError("gibberish", "its answer is no JSON object")
        return answer

    def ask(self, message: Mapping[str, Any], seconds: float) -> dict[str, Any]:
        """Send one line and return the answer to it."""
        self.tell(message)
        return self.hear(seconds)

    def _ending_error(self) -> Exception:
        """Return the error that tells how the job ended: SubmissionSandboxError where the job is not to blame."""
        try:
            report = json.loads(self._report.read())
        except ValueError:
            return SubmissionSandboxError(f"the sandbox died with exit code {self._process.wait(_SHUTDOWN_SECONDS)}")
        if report["ending"] in ("not_started", "interrupted", "machine_out_of_memory"):
            return SubmissionSandboxError(f"the sandbox could not run it: {report['detail']}")
        return ProgramEndedError(report["ending"], report["detail"] or f"exit code {report['exit_code']}")

    def end(self) -> None:
        """Take the sandbox down: it ends when the standard input of its command does."""
        with contextlib.suppress(OSError):
            self._job.close()
        try:
            self._process.wait(_SHUTDOWN_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._report.close()
        os.close(self._asks)
        os.close(self._answers)


def _make_pipe(path: Path) -> int:
    """Open a pipe for reading and writing: opening does not block, and no end of file comes when the program ends."""
    os.mkfifo(path, 0o600)
    return os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
