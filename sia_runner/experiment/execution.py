"""Run one harness once and verify its answers, corrected by the calls that the gateway saw fail."""

import re
import socket
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from sia_runner.config.experiment import Experiment
from sia_runner.experiment import verifier_sandbox
from sia_runner.experiment.context import Components, RunContext
from sia_runner.experiment.harness_files import FaultyHarness, write_harness
from sia_runner.records import INFRASTRUCTURE_KINDS, CallFailures, Outcome, OutcomeKind, SampledCall, Score, Usage
from sia_runner.sandbox.protocol import Ending, SandboxError, SandboxJob, SandboxResult
from sia_runner.selection.scoring import AggregateError, correct_outcomes
from sia_runner.store.files import last_lines
from sia_runner.store.run_directory import HarnessRunDir, read_json, remove_tree, write_json
from sia_runner.tasks.protocol import Fold, FoldPurpose, Task
from sia_runner.text import strip_control_characters
from sia_runner.wire.grants import Grant, ProviderDown

if TYPE_CHECKING:
    from sia_runner.gateway.service import GatewayService

R = TypeVar("R")

_INTERRUPTED_RUNS = 3  # of one harness, each of which waited for servers that had ended
_UNANSWERED = {
    Ending.TIMEOUT: OutcomeKind.TIMEOUT,
    Ending.OUT_OF_MEMORY: OutcomeKind.OUT_OF_MEMORY,
    Ending.MACHINE_OUT_OF_MEMORY: OutcomeKind.KILLED,
    Ending.DISK_FULL: OutcomeKind.CRASHED,
}


def verify_submission(context: Components, site: HarnessRunDir, unanswered: OutcomeKind) -> list[Outcome]:
    """Return one outcome per question asked at `site`, of the kind `unanswered` without an answer."""
    keys, task = read_json(site.keys), context.task
    command = verifier_sandbox.sandbox_command(context) if task.executes else ()
    outcomes = task.verify(site.submission, keys, unanswered, command)
    if not site.faults.is_file():
        return outcomes
    return correct_outcomes(outcomes, CallFailures.from_json(read_json(site.faults)), keys)


def infrastructure_failure(outcomes: Sequence[Outcome]) -> str:
    """Return how many questions failed for a reason that is not the harness's, and the first one's; else ""."""
    failed = [outcome for outcome in outcomes if outcome.kind in INFRASTRUCTURE_KINDS]
    if not failed:
        return ""
    words = failed[0].prediction or ("the machine ran out of memory" if failed[0].kind is OutcomeKind.KILLED else "")
    return f"{len(failed)} of {len(outcomes)} {failed[0].kind}: {words}"


def score_outcomes(task: Task, outcomes: Sequence[Outcome]) -> tuple[Score | None, str]:
    """Return the score; else None, and in one line why the verifier gives none."""
    try:
        return task.score(outcomes), ""
    except AggregateError as error:
        return None, f"{OutcomeKind.VERIFIER_ERROR}: {error}"


def outcomes_of_split(context: Components, outcomes: Sequence[Outcome], split: str) -> list[Outcome]:
    """Return the outcomes of questions of one split."""
    units = set(context.task.splits()[split])
    return [outcome for outcome in outcomes if outcome.unit in units]


def harness_saw_val_labels(task: Task) -> bool:
    """Tell whether a harness learns gold answers of val, as with cross-fitting: no proposer may see what it prints."""
    purposes: tuple[FoldPurpose, ...] = ("gate", "trial", "select")
    secret = {*task.splits()["val"], *task.splits()["test"]}
    return any(secret.intersection(round_.train) for purpose in purposes for round_ in task.rounds(purpose))


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
    sampled: Mapping[str, Sequence[SampledCall]]


def execute(
    context: RunContext, grant: Grant, round_: Fold, site: HarnessRunDir, harness: Path, salt: str, seconds: float
) -> Execution:
    """Run one harness on the questions of a round in the cleared `site`, with `grant` for its model calls.

    `salt` decides ids and order in the view. Raises ProviderDown or BudgetSpent when calls failed for such a reason. A
    run whose time was up is repeated if a server of the run's own ended meanwhile: the harness waited for it.
    """
    for _ in range(_INTERRUPTED_RUNS):
        execution = _execute_once(context, grant, round_, site, harness, salt, seconds)
        if execution is not None:
            return execution
    raise ProviderDown(f"the model's servers ended in the middle of {_INTERRUPTED_RUNS} runs of one harness")


def _execute_once(
    context: RunContext, grant: Grant, round_: Fold, site: HarnessRunDir, harness: Path, salt: str, seconds: float
) -> Execution | None:
    """Return the end of one run of a harness; None if it waited too long for servers that had ended."""
    site.clear()
    view = context.task.lay_out(round_, site.view, salt)
    write_json(site.keys, dict(view.keys))
    site.work.mkdir()
    gateway = context.gateway if context.config.calls_model else None
    code = "".join(path.read_text(encoding="utf-8", errors="replace") for path in harness.rglob("*.py"))
    interruptions = 0
    with gateway.open_session(grant, code) if gateway else nullcontext() as session:
        interruptions = gateway.interruptions if gateway else 0
        job = SandboxJob(
            harness=harness,
            entry=context.task.entry,
            data=view.path,
            work=site.work,
            log=site.log,
            limits=context.sandbox_limits(seconds),
            python=_interpreter(context.config, harness),
            gateway=session.address if session else None,
        )
        result = context.sandbox.run(job)
    raise_if_stopped(result, gateway)
    if session:
        if trouble := session.trouble():
            raise trouble
        # before anything was answered, what is refused is how the run is set up rather than what a candidate sends
        if grant.purpose != "trial" and not context.run.has_incumbent and (refusal := session.refusal()):
            raise ProviderDown(f"the provider refuses all requests alike: {refusal}")
        faults = session.faults()
        if harness_saw_val_labels(context.task):
            own_words = {kind: text for kind, text in (faults.words or {}).items() if kind is OutcomeKind.TIMEOUT}
            faults = replace(faults, words=own_words)  # a provider may repeat what a harness sends it
        late = result.ending is Ending.TIMEOUT or OutcomeKind.TIMEOUT in {*faults.questions.values(), *faults.untagged}
        if gateway and late and gateway.interruptions > interruptions:
            return None
        write_json(site.faults, faults.to_json())
    context.task.collect(site.work, site.submission)
    remove_tree(site.view)  # it can be laid out again from the salt
    failure = describe_failure(result, site.log, quiet=harness_saw_val_labels(context.task))
    failure += _foreign_keys(result, code)
    kind = _UNANSWERED.get(result.ending, OutcomeKind.NO_ANSWER if result.exit_code == 0 else OutcomeKind.CRASHED)
    return Execution(result, failure, kind, session and session.usage(), session.sampled if session else {})


def run_stage_in_job(stage: Callable[..., R], context: RunContext, n: int, *arguments: Any) -> R:
    """Run a stage in a process of its own, perhaps on another node, which prepares what the driver has prepared."""
    context.task.prepare(lambda _: None)
    try:
        context.sandbox.check(with_gateway=context.config.needs_gateway)
    except SandboxError as error:  # of this node: not the candidate's fault
        raise SandboxFailed(f"{socket.gethostname()}: {error}") from error
    try:
        return stage(context, n, *arguments)
    finally:
        context.close_gateway()  # it releases what this process reserved of the budget


def raise_if_stopped(result: SandboxResult, gateway: "GatewayService | None") -> None:
    """Raise when a sandbox did not run to an end of its own or of its limits, or the run's end cut its calls."""
    if result.ending is Ending.INTERRUPTED or (gateway and gateway.closed):
        raise RunInterrupted
    if result.ending is Ending.NOT_STARTED:
        raise SandboxFailed(result.detail)


def write_or_fault(context: RunContext, files: Mapping[str, str], harness: Path) -> str:
    """Write the harness; return in one line why it cannot be run, or an empty text."""
    try:
        write_harness(files, harness, context.task.entry)
    except FaultyHarness as fault:
        return str(fault)
    return environment_fault(context.config, harness)


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


def describe_failure(result: SandboxResult, log: Path, *, quiet: bool = False) -> str:
    """Explain in one line why a program did not end well, without what it printed if `quiet`; empty for exit code 0."""
    if result.ending is Ending.EXITED and result.exit_code == 0:
        return ""
    what = f"exit code {result.exit_code}" if result.ending is Ending.EXITED else result.ending.value.replace("_", " ")
    why = result.detail or ("" if quiet else last_log_line(log))
    return f"{what} after {result.seconds:.1f} s" + (f": {why}" if why else "")


def _foreign_keys(result: SandboxResult, code: str) -> str:
    """Name keys of other clouds in a failed harness, which most likely failed without them."""
    if result.exit_code in (0, None):
        return ""
    named = set(re.findall(r"\b[A-Z][A-Z0-9_]*_API_KEY\b", code))
    foreign = sorted(named - {"OPENAI_API_KEY", "ANTHROPIC_API_KEY"})[:3]
    why = "no key of another cloud is in the sandbox; the gateway speaks OPENAI and ANTHROPIC"
    return f"; needs {', '.join(foreign)}: {why}" if foreign else ""


def last_log_line(log: Path) -> str:
    """Return the last line a program printed, made safe for a terminal. The log itself is bounded by the sandbox."""
    return strip_control_characters((last_lines(log) or [""])[-1][:200])
