"""Run one harness once and verify its answers.

The steps: write the view, open a gateway session, start the sandbox, copy the submission out. The verifier's results
are corrected by the calls that the gateway saw fail.
"""

import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from sia_runner.config.experiment import Experiment
from sia_runner.experiment import verifier_sandbox
from sia_runner.experiment.context import Components, RunContext
from sia_runner.records import CallFailures, Outcome, OutcomeKind, SampledCall, Usage
from sia_runner.sandbox.protocol import Ending, SandboxError, SandboxJob, SandboxResult
from sia_runner.selection.scoring import correct_outcomes
from sia_runner.store.run_directory import HarnessRunDir, read_json, remove_tree, write_json
from sia_runner.tasks.protocol import Fold, FoldPurpose, Task
from sia_runner.wire.grants import Grant

if TYPE_CHECKING:
    from sia_runner.gateway.session import GatewaySession

ROUND_PURPOSES: tuple[FoldPurpose, ...] = ("gate", "trial", "select")


def verify_submission(context: Components, site: HarnessRunDir, unanswered: OutcomeKind) -> list[Outcome]:
    """Return one outcome per question asked at `site`.

    `unanswered`: the kind of questions without answer.
    """
    keys = read_json(site.keys)
    task = context.task
    outcomes = task.verify(
        site.submission, keys, unanswered, verifier_sandbox.sandbox_command(context) if task.executes else ()
    )
    if not site.faults.is_file():
        return outcomes
    return correct_outcomes(outcomes, CallFailures.from_json(read_json(site.faults)), keys)


def outcomes_of_split(context: Components, outcomes: Sequence[Outcome], split: str) -> list[Outcome]:
    """Return the outcomes of questions of one split."""
    units = set(context.task.splits()[split])
    return [outcome for outcome in outcomes if outcome.unit in units]


def harness_saw_val_labels(task: Task) -> bool:
    """Tell whether a harness learns gold answers of val before the final test, as with cross-fitting.

    It can then print them, and nothing it prints may reach a proposer.
    """
    secret = {*task.splits()["val"], *task.splits()["test"]}
    return any(secret.intersection(round_.train) for purpose in ROUND_PURPOSES for round_ in task.rounds(purpose))


class RunInterrupted(KeyboardInterrupt):
    """The run was asked to stop; the journal stays, and resume repeats the step under way."""


class SandboxFailed(Exception):
    """The sandbox, not the harness, failed: nothing can be said about the candidate."""


@dataclass(frozen=True, slots=True)
class Execution:
    """The end of one run of a harness, and the outcome kind of its unanswered questions."""

    ended: SandboxResult
    failure: str  # one line; empty when the program ended by itself with exit code 0
    unanswered: OutcomeKind
    usage: Usage | None  # spent on models; None where the harness could call none
    # Rollouts: the policy's finished calls, in order, by the question's id in the view.
    sampled: Mapping[str, Sequence[SampledCall]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ExecutionPurpose:
    """The reason of a run of a harness: whose budget pays, under which name."""

    generation: int  # 0: no generation's budget (the final test)
    candidate: str
    name: str  # gate | trial | select | test | rollout
    adapter: Path | None = None  # of the policy
    sample: int | None = None  # rollouts: which run over the same questions
    live: bool = False  # rollouts: the policy as it is in the middle of training
    temperature: float | None = None
    seed: str | None = None

    def grant(self, site: HarnessRunDir) -> Grant:
        """Return what the harness may ask of the gateway. Calls are written to `site`; those of rollouts are not."""
        return Grant(
            "target",
            self.generation,
            self.candidate,
            self.name,
            None if self.name == "rollout" else site.trajectories,
            sample=self.sample,
            adapter=self.adapter,
            live=self.live,
            temperature=self.temperature,
            seed=self.seed,
        )


def execute(
    context: RunContext,
    purpose: ExecutionPurpose,
    round_: Fold,
    site: HarnessRunDir,
    harness: Path,
    salt: str,
    seconds: float,
) -> Execution:
    """Run one harness on the questions of a round.

    `salt` decides ids and order in the view; `seconds` is the deadline. Clears `site` first. Raises ProviderDown or
    BudgetSpent when calls failed for such a reason: nothing can then be said about the harness.
    """
    site.clear()
    view = context.task.lay_out(round_, site.view, salt)
    write_json(site.keys, dict(view.keys))
    site.work.mkdir()
    with _admitted(context, purpose, site) as session:
        result = context.sandbox.run(
            SandboxJob(
                harness=harness,
                entry=context.task.entry,
                data=view.path,
                work=site.work,
                log=site.log,
                limits=context.sandbox_limits(seconds),
                python=_interpreter(context.config, harness),
                door=session.door if session else None,
            )
        )
    raise_if_stopped(result)
    if session:
        if trouble := session.trouble():
            raise trouble
        write_json(site.faults, session.faults().to_json())
    context.task.collect(site.work, site.submission)
    remove_tree(site.view)  # it can be laid out again from the salt
    failure = describe_failure(result, site.log, quiet=harness_saw_val_labels(context.task)) + _foreign_keys(
        result, harness
    )
    if session is None:
        return Execution(result, failure, _unanswered(result), None)
    return Execution(result, failure, _unanswered(result), session.usage(), session.sampled)


@contextmanager
def _admitted(context: RunContext, purpose: ExecutionPurpose, site: HarnessRunDir) -> Iterator["GatewaySession | None"]:
    gateway = context.gateway if context.config.calls_model else None
    if gateway is None:
        yield None
        return
    with gateway.open_session(purpose.grant(site)) as session:
        yield session


def raise_if_stopped(result: SandboxResult) -> None:
    """Raise when a sandbox did not run to an end of its own or of its limits."""
    if result.ending is Ending.INTERRUPTED:
        raise RunInterrupted
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
    from sia_runner.sandbox.interpreter import environment_python

    return environment_python(requirements.read_text(encoding="utf-8"), config.sandbox.allow_installs)


def _unanswered(result: SandboxResult) -> OutcomeKind:
    if result.ending is Ending.TIMEOUT:
        return OutcomeKind.TIMEOUT
    if result.ending is Ending.OUT_OF_MEMORY:
        return OutcomeKind.OUT_OF_MEMORY
    if result.ending is Ending.DISK_FULL or result.exit_code != 0:
        return OutcomeKind.CRASHED
    return OutcomeKind.NO_ANSWER


def describe_failure(result: SandboxResult, log: Path, *, quiet: bool = False) -> str:
    """Explain in one line, for people and proposers, why a program did not end well.

    `quiet`: leave out what it printed. Empty for exit code 0.
    """
    if result.ending is Ending.EXITED and result.exit_code == 0:
        return ""
    what = f"exit code {result.exit_code}" if result.ending is Ending.EXITED else result.ending.value.replace("_", " ")
    why = result.detail or ("" if quiet else last_log_line(log))
    return f"{what} after {result.seconds:.1f} s" + (f": {why}" if why else "")


def _foreign_keys(result: SandboxResult, harness: Path) -> str:
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


def last_log_line(log: Path, longest: int = 200) -> str:
    """The last line a program printed, made safe for a terminal. The log itself is bounded by the sandbox."""
    if not log.is_file():
        return ""
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines()]
    last = next((line for line in reversed(lines) if line), "")
    return "".join(c for c in last[:longest] if unicodedata.category(c)[0] != "C")
