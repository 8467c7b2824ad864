"""Run one harness once: lay out the view, start the sandbox, copy the submission out."""

import unicodedata
from dataclasses import dataclass
from pathlib import Path

from sia_runner.config import Experiment
from sia_runner.records import OutcomeKind
from sia_runner.rooms import limits, rooms
from sia_runner.rundir import Site, remove, write_json
from sia_runner.sandbox.protocol import Ended, Ending, Job, SandboxError
from sia_runner.tasks.protocol import Round


class Interrupted(KeyboardInterrupt):
    """The run was asked to stop; what is journaled stays, the step under way is done again on resume."""


class SandboxFailed(Exception):
    """The sandbox, not the harness, failed: nothing can be said about the candidate."""


@dataclass(frozen=True, slots=True)
class Execution:
    """How one run of a harness ended, and the kind its unanswered questions take."""

    ended: Ended
    failure: str  # one line; empty when the program ended by itself with exit code 0
    unanswered: OutcomeKind


def execute(config: Experiment, round_: Round, site: Site, harness: Path, salt: str, seconds: float) -> Execution:
    """`salt` decides ids and order in the view; `seconds` is the deadline. Clears `site` first."""
    room = rooms(config)
    site.clear()
    view = room.task.lay_out(round_, site.view, salt)
    write_json(site.keys, dict(view.keys))
    site.work.mkdir()
    ended = room.sandbox.run(
        Job(
            harness=harness,
            entry=room.task.entry,
            data=view.path,
            work=site.work,
            log=site.log,
            limits=limits(config, seconds),
            python=_interpreter(config, harness),
        )
    )
    if ended.ending is Ending.INTERRUPTED:
        raise Interrupted
    if ended.ending is Ending.NOT_STARTED:
        raise SandboxFailed(ended.detail)
    room.task.collect(site.work, site.submission)
    remove(site.view)  # it can be laid out again from the salt
    return Execution(ended, describe(ended, site.log), _unanswered(ended))


def environment_fault(config: Experiment, harness: Path) -> str:
    """Why the environment that a harness asks for cannot be had, as one line; empty when there is none to be had."""
    try:
        _interpreter(config, harness)
    except SandboxError as error:
        return str(error)
    return ""


def _interpreter(config: Experiment, harness: Path) -> Path | None:
    wanted = harness / "requirements.txt"
    if not wanted.is_file():
        return None
    from sia_runner.sandbox.environments import environment

    return environment(wanted.read_text(encoding="utf-8"), config.sandbox.allow_installs)


def _unanswered(ended: Ended) -> OutcomeKind:
    if ended.ending is Ending.TIMEOUT:
        return OutcomeKind.TIMEOUT
    if ended.ending is Ending.OUT_OF_MEMORY:
        return OutcomeKind.OUT_OF_MEMORY
    if ended.ending is Ending.DISK_FULL or ended.exit_code != 0:
        return OutcomeKind.CRASHED
    return OutcomeKind.NO_ANSWER


def describe(ended: Ended, log: Path) -> str:
    """One line for people: why a program did not end well."""
    if ended.ending is Ending.EXITED and ended.exit_code == 0:
        return ""
    what = f"exit code {ended.exit_code}" if ended.ending is Ending.EXITED else ended.ending.value.replace("_", " ")
    why = ended.detail or last_line(log)
    return f"{what} after {ended.seconds:.1f} s" + (f": {why}" if why else "")


def last_line(log: Path, longest: int = 200) -> str:
    """The last line a program printed, made safe for a terminal. The log itself is bounded by the sandbox."""
    if not log.is_file():
        return ""
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines()]
    last = next((line for line in reversed(lines) if line), "")
    return "".join(c for c in last[:longest] if unicodedata.category(c)[0] != "C")
