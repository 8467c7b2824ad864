"""The workbench of a proposer: sandboxed trials, model calls and guest agents, recorded and never paid twice."""

import hashlib
import json
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sia_runner.experiment.context import RunContext
from sia_runner.experiment.execution import (
    ExecutionPurpose,
    describe_failure,
    environment_fault,
    execute,
    harness_saw_val_labels,
    raise_if_stopped,
    verify_submission,
)
from sia_runner.experiment.harness_files import MAX_BYTES, MAX_FILES, FaultyHarness, write_harness
from sia_runner.experiment.weights.decision import estimate_training
from sia_runner.proposers.protocol import Files, GuestResult, MeasuredRewards, ProposerError
from sia_runner.records import INFRASTRUCTURE_KINDS, Json, ModelReply, Outcome, ToolCall, Trial, Usage, count_kinds
from sia_runner.sandbox.protocol import SandboxJob
from sia_runner.store.run_directory import HarnessRunDir, read_json, remove_tree, tree_sha256, write_json
from sia_runner.tasks.collect import CopyQuota, collect_tree, read_refusal
from sia_runner.text import strip_control_characters
from sia_runner.wire.grants import BudgetSpent, Grant

if TYPE_CHECKING:
    from sia_runner.gateway.service import GatewayService


class RecordedReplies:
    """The calls of one proposal, in order.

    Recorded answers are returned as long as the requests are the same; at the first that differs, the rest is dropped
    and asked again.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._position = path, 0
        self._recorded = _read_records(path)

    def answer(self, request: Any, ask: Callable[[], ModelReply]) -> ModelReply:
        """Return the recorded reply to `request` (JSON data), or call `ask()` and record its reply."""
        digest = hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()
        position, self._position = self._position, self._position + 1
        if position < len(self._recorded) and self._recorded[position]["request_sha256"] == digest:
            return _reply_from_json(self._recorded[position]["reply"])
        del self._recorded[position:]
        reply = ask()
        self._recorded.append({"request_sha256": digest, "reply": asdict(reply)})
        self._write(position)
        return reply

    def _write(self, position: int) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        earlier = "".join(json.dumps(line) + "\n" for line in self._recorded[:position])
        with self._path.open("r+" if self._path.is_file() else "w", encoding="utf-8") as stream:
            stream.seek(len(earlier))  # json.dumps writes ASCII: a character is a byte
            stream.truncate()
            stream.write(json.dumps(self._recorded[position]) + "\n")
            stream.flush()
            os.fsync(stream.fileno())


def _read_records(path: Path) -> list[Json]:
    """Read complete lines: a kill may have cut the last one."""
    if not path.is_file():
        return []
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n")[:-1]
    try:
        return [json.loads(line) for line in lines]
    except ValueError:
        return []


def _reply_from_json(data: Json) -> ModelReply:
    return ModelReply(
        text=data["text"],
        tool_calls=tuple(ToolCall(**call) for call in data["tool_calls"]),
        finish_reason=data["finish_reason"],
        message=data["message"],
        usage=Usage(**data["usage"]),
    )


_GUEST_OUTPUT_BYTES = 16 * 1024  # bytes kept of what it printed


def run_guest(
    context: RunContext,
    grant: Grant,
    folder: Path,
    program: Files,
    entry: str,
    inputs: Path,
    harness: Files,
    seconds: float,
) -> GuestResult:
    """Run `program` in a cleared `folder`; see Workbench.host. The guest's files are copied out within limits."""
    gateway = _proposer_gateway(context)
    site = HarnessRunDir(folder)
    site.clear()
    guest = site.path / "program"
    try:
        write_harness(program, guest, entry)
        site.work.mkdir()
        _write_files(harness, site.work / "harness")
    except FaultyHarness as refused:
        raise ProposerError(f"meta_agent={context.config.meta_agent.name}: {refused}") from refused
    with gateway.open_session(grant) as session:
        ending = context.sandbox.run(
            SandboxJob(
                harness=guest,
                entry=entry,
                data=inputs,
                work=site.work,
                log=site.log,
                limits=context.sandbox_limits(seconds),
                door=session.door,
            )
        )
    raise_if_stopped(ending)
    trouble = session.trouble()
    if trouble and not (isinstance(trouble, BudgetSpent) and trouble.scope == "grant"):
        raise trouble
    harness_folder = site.work / "harness"
    if harness_folder.is_dir() and not harness_folder.is_symlink():  # the guest has exited, so it cannot be swapped
        collect_tree(harness_folder, site.submission, CopyQuota(MAX_FILES, MAX_BYTES), leave=frozenset())
    output = site.log.read_bytes()[-_GUEST_OUTPUT_BYTES:].decode("utf-8", "replace") if site.log.is_file() else ""
    refused = read_refusal(site.submission)
    if refused:
        return GuestResult({}, f"what the guest left in harness/ cannot be taken: {refused}", output, session.usage())
    return GuestResult(_read_text_files(site.submission), describe_failure(ending, site.log), output, session.usage())


def _proposer_gateway(context: RunContext) -> "GatewayService":
    if context.gateway is None:
        raise ProposerError(f"meta_agent={context.config.meta_agent.name} calls a model; give it a key `provider`")
    return context.gateway


def _write_files(files: Files, folder: Path) -> None:
    """Write the guest's starting files; the entry program may be missing, then the guest has to write it."""
    folder.mkdir()
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


def _read_text_files(folder: Path) -> dict[str, str]:
    """Return the text files of a folder: a harness is text, so other files cannot be proposed."""
    texts: dict[str, str] = {}
    for path in sorted(folder.rglob("*")) if folder.is_dir() else []:
        if path.is_file() and not path.is_symlink():
            try:
                texts[path.relative_to(folder).as_posix()] = path.read_bytes().decode("utf-8")
            except UnicodeDecodeError:
                continue
    return texts


_MAX_EXAMPLES = 8  # dev failures shown of one trial
_TRIAL_OUTPUT_BYTES = 4 * 1024  # bytes shown of what it printed


class ProposalWorkbench:
    """The workbench of one proposal, whose folder is `folder`; harnesses run on the weights of `parent`.

    Trials are stored under trials/<content>/, so that a resumed or later proposal does not pay for them again.
    """

    def __init__(self, context: RunContext, n: int, folder: Path, parent: int | None) -> None:
        self._context, self._n, self._folder, self._parent = context, n, folder, parent
        self._adapter = context.run.adapter_of(parent)
        self._dialogue = RecordedReplies(folder / "dialogue.jsonl")

    def try_out(self, batch: Sequence[Files], *, share: float, questions: int | None = None) -> list[Trial]:
        """Run each harness on dev questions; see Workbench.try_out."""
        effort = self._effort(share, questions)
        return self._context.compute.map(lambda files: self._trial(files, *effort), batch)

    def chat(
        self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]] = (), **settings: Any
    ) -> ModelReply:
        """Call the proposer's model, or return the recorded reply."""
        gateway = _proposer_gateway(self._context)
        grant, request = self._grant(), {"messages": list(messages), "tools": list(tools), **settings}
        return self._dialogue.answer(request, lambda: gateway.chat(grant, messages, tools, **settings))

    def measure(self, files: Files) -> MeasuredRewards:
        """Measure the rewards of a few rollouts of a harness."""
        if self._parent is None or self._context.config.trainer.kind == "none":
            raise ProposerError("rewards are measured where the weights lever may be pulled: see Brief.weights")
        prospect = estimate_training(self._context, self._n, self._parent, files)
        return MeasuredRewards(
            shape=asdict(prospect.probe.shape),
            suggested=prospect.suggested,
            why=prospect.why,
            refused=prospect.refused,
            minutes={algorithm: cost["minutes"] for algorithm, cost in prospect.cost.items()},
        )

    def host(
        self, program: Files, entry: str, *, inputs: Path, harness: Files, calls: int, seconds: float
    ) -> GuestResult:
        """Run another package's agent in the sandbox."""
        grant = self._grant(calls)
        return run_guest(self._context, grant, self._folder / "guest", program, entry, inputs, harness, seconds)

    def _effort(self, share: float, questions: int | None) -> tuple[float, int | None]:
        """Return the share of train and the number of dev questions (None: all) for `share` of the full cost."""
        task = self._context.task
        if self._context.config.calls_model and share < 1:
            dev = len(task.splits()["dev"])
            return 1.0, max(1, math.ceil(share * min(dev, questions or dev)))
        if not any(fold.train for fold in task.rounds("trial")):  # without training data the share makes no difference
            return 1.0, questions
        return share, questions

    def _grant(self, calls: int | None = None) -> Grant:
        return Grant("meta", self._n, f"gen_{self._n}", "propose", self._folder / "proposer.jsonl", calls=calls)

    def _trial(self, files: Files, train_fraction: float, questions: int | None) -> Trial:
        weights = tree_sha256(self._adapter) if self._adapter else None
        content = json.dumps([dict(files), train_fraction, questions, weights], sort_keys=True)
        name = hashlib.sha256(content.encode(errors="backslashreplace")).hexdigest()[:16]
        site = HarnessRunDir(self._context.run.trials / name)
        record = site.path / "trial.json"
        with _exclusive(site.path):  # parallel proposals may have the same idea
            if record.is_file():
                stored = read_json(record)
                return Trial(**{**stored, "examples": tuple(stored["examples"])})
            trial, fair = self._run_trial(files, site, name, train_fraction, questions)
            if fair:
                write_json(record, asdict(trial))
        return trial

    def _run_trial(
        self, files: Files, site: HarnessRunDir, name: str, train_fraction: float, questions: int | None
    ) -> tuple[Trial, bool]:
        """Return the trial, and whether it says something about the harness."""
        task = self._context.task
        rounds = task.rounds("trial", train_fraction=train_fraction, questions=questions)
        if not rounds:
            return Trial(0.0, 0, 0.0, f"task {task.name} has no dev questions to try a harness on"), True
        (fold,) = rounds
        harness = site.path / "harness"
        site.path.mkdir(parents=True, exist_ok=True)
        try:
            write_harness(files, harness, task.entry)
        except FaultyHarness as refused:
            return Trial(0.0, len(fold.questions), 0.0, str(refused)), True
        fault = environment_fault(self._context.config, harness)
        if fault:
            return Trial(0.0, len(fold.questions), 0.0, fault), True
        purpose = ExecutionPurpose(self._n, f"trial_{name}", "trial", adapter=self._adapter)
        seed = f"{self._context.config.seed}:trial"
        execution = execute(self._context, purpose, fold, site, harness, seed, self._context.config.task.limits.run)
        outcomes = verify_submission(self._context, site, execution.unanswered)
        output = "" if harness_saw_val_labels(task) else _output_tail(site.log)
        for part in (site.work, site.submission, site.keys, site.trajectories, site.faults):
            remove_tree(part)
        unfair = [outcome for outcome in outcomes if outcome.kind in INFRASTRUCTURE_KINDS]
        return Trial(
            value=task.score(outcomes).value,
            n=len(outcomes),
            seconds=round(execution.ended.seconds, 2),
            failure=execution.failure or _infrastructure_failure(unfair, len(outcomes)),
            outcomes=count_kinds(outcomes),
            examples=tuple(task.failures(outcomes, _MAX_EXAMPLES)),
            output=output,
        ), not unfair


@contextmanager
def _exclusive(folder: Path) -> Iterator[None]:
    """Hold a lock on `folder` over threads, processes and nodes."""
    from filelock import FileLock

    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_suffix(".lock")):
        yield


def _output_tail(log: Path) -> str:
    return (
        strip_control_characters(log.read_bytes()[-_TRIAL_OUTPUT_BYTES:].decode("utf-8", "replace"))
        if log.is_file()
        else ""
    )


def _infrastructure_failure(unfair: Sequence[Outcome], n: int) -> str:
    return f"{len(unfair)} of {n} {unfair[0].kind}: {unfair[0].prediction}" if unfair else ""
