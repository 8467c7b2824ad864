"""Run one harness once: write the view, open a gateway session, start the sandbox, copy the submission out."""

import re
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from sia_runner.candidate.verdicts import taught_val
from sia_runner.config import Experiment
from sia_runner.models.protocol import Grant, Visit
from sia_runner.records import OutcomeKind, Usage
from sia_runner.rooms import limits, models, rooms
from sia_runner.rundir import RunDir, Site, remove, write_json
from sia_runner.sandbox.protocol import Ended, Ending, Job, SandboxError
from sia_runner.tasks.protocol import Round


class Interrupted(KeyboardInterrupt):
    """The run was asked to stop; the journal stays, and resume repeats the step under way."""


class SandboxFailed(Exception):
    """The sandbox, not the harness, failed: nothing can be said about the candidate."""


@dataclass(frozen=True, slots=True)
class Execution:
    """The end of one run of a harness, and the outcome kind of its unanswered questions."""

    ended: Ended
    failure: str  # one line; empty when the program ended by itself with exit code 0
    unanswered: OutcomeKind
    usage: Usage | None  # spent on models; None where the harness could call none


@dataclass(frozen=True, slots=True)
class Purpose:
    """The reason of a run of a harness: whose budget pays, under which name."""

    run: RunDir
    generation: int  # 0: no generation's budget (the final test)
    candidate: str
    name: str  # gate | trial | select | test | rollout
    adapter: Path | None = None  # of the policy
    sample: int | None = None  # rollouts: which run over the same questions
    live: bool = False  # rollouts: the policy as it is in the middle of training
    temperature: float | None = None
    seed: str | None = None

    def grant(self, site: Site) -> Grant:
        """Return what the harness may ask of the gateway, with its trajectories written to `site`."""
        return Grant(
            "target",
            self.generation,
            self.candidate,
            self.name,
            site.trajectories,
            sample=self.sample,
            adapter=self.adapter,
            live=self.live,
            temperature=self.temperature,
            seed=self.seed,
        )


def execute(
    config: Experiment, purpose: Purpose, round_: Round, site: Site, harness: Path, salt: str, seconds: float
) -> Execution:
    """Run one harness on the questions of a round.

    `salt` decides ids and order in the view; `seconds` is the deadline. Clears `site` first. Raises ProviderDown or
    BudgetSpent when calls failed for such a reason: nothing can then be said about the harness.
    """
    context = rooms(config)
    site.clear()
    view = context.task.lay_out(round_, site.view, salt)
    write_json(site.keys, dict(view.keys))
    site.work.mkdir()
    with _admitted(config, purpose, site) as session:
        result = context.sandbox.run(
            Job(
                harness=harness,
                entry=context.task.entry,
                data=view.path,
                work=site.work,
                log=site.log,
                limits=limits(config, seconds),
                python=_interpreter(config, harness),
                door=session.door if session else None,
            )
        )
    stop_for(result)
    if session:
        if trouble := session.trouble():
            raise trouble
        write_json(site.faults, session.faults().as_json())
    context.task.collect(site.work, site.submission)
    remove(site.view)  # it can be laid out again from the salt
    failure = describe(result, site.log, quiet=taught_val(context.task)) + _foreign_keys(result, harness)
    return Execution(result, failure, _unanswered(result), session.usage() if session else None)


@contextmanager
def _admitted(config: Experiment, purpose: Purpose, site: Site) -> Iterator[Visit | None]:
    gateway = models(config, purpose.run) if config.calls_model else None
    if gateway is None:
        yield None
        return
    with gateway.admit(purpose.grant(site)) as session:
        yield session


def stop_for(result: Ended) -> None:
    """Raise when a sandbox did not run to an end of its own or of its limits."""
    if result.ending is Ending.INTERRUPTED:
        raise Interrupted
    if result.ending is Ending.NOT_STARTED:
        raise SandboxFailed(result.detail)


def environment_fault(config: Experiment, harness: Path) -> str:
    """Explain in one line why the environment that a harness asks for is not available; else return an empty string."""
    try:
        _interpreter(config, harness)
    except SandboxError as error:
        return str(error)
    return ""


def _interpreter(config: Experiment, harness: Path) -> Path | None:
    requirements = harness / "requirements.txt"
    if not requirements.is_file():
        return None
    from sia_runner.sandbox.environments import environment

    return environment(requirements.read_text(encoding="utf-8"), config.sandbox.allow_installs)


def _unanswered(result: Ended) -> OutcomeKind:
    if result.ending is Ending.TIMEOUT:
        return OutcomeKind.TIMEOUT
    if result.ending is Ending.OUT_OF_MEMORY:
        return OutcomeKind.OUT_OF_MEMORY
    if result.ending is Ending.DISK_FULL or result.exit_code != 0:
        return OutcomeKind.CRASHED
    return OutcomeKind.NO_ANSWER


def describe(result: Ended, log: Path, *, quiet: bool = False) -> str:
    """Explain in one line, for people and proposers, why a program did not end well.

    `quiet`: leave out what it printed. Empty for exit code 0.
    """
    if result.ending is Ending.EXITED and result.exit_code == 0:
        return ""
    what = f"exit code {result.exit_code}" if result.ending is Ending.EXITED else result.ending.value.replace("_", " ")
    why = result.detail or ("" if quiet else last_line(log))
    return f"{what} after {result.seconds:.1f} s" + (f": {why}" if why else "")


def _foreign_keys(result: Ended, harness: Path) -> str:
    """Name keys of other clouds in a failed harness, which most likely failed without them."""
    if result.exit_code in (0, None):
        return ""
    sources = (path.read_text(encoding="utf-8", errors="replace") for path in sorted(harness.rglob("*.py")))
    named = {name for source in sources for name in re.findall(r"\b[A-Z][A-Z0-9_]*_API_KEY\b", source)}
    foreign = sorted(named - {"OPENAI_API_KEY", "ANTHROPIC_API_KEY"})[:3]
    if not foreign:
        return ""
    why = "no key of another cloud is in the sandbox; the gateway speaks OPENAI and ANTHROPIC"
    return f"; needs {', '.join(foreign)}: {why}"


def last_line(log: Path, longest: int = 200) -> str:
    """The last line a program printed, made safe for a terminal. The log itself is bounded by the sandbox."""
    if not log.is_file():
        return ""
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines()]
    last = next((line for line in reversed(lines) if line), "")
    return "".join(c for c in last[:longest] if unicodedata.category(c)[0] != "C")
