"""The workbench of a proposer: sandboxed trials, model calls and guest agents, recorded and never paid twice."""

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from sia_runner.experiment.context import RunContext
from sia_runner.experiment.evidence.candidate import CandidateEvidence, choose_failures, longest_prediction
from sia_runner.experiment.execution import (
    describe_failure,
    execute,
    harness_saw_val_labels,
    infrastructure_failure,
    raise_if_stopped,
    score_outcomes,
    verify_submission,
    write_or_fault,
)
from sia_runner.experiment.harness_files import FaultyHarness, read_harness, write_harness
from sia_runner.experiment.weights.decision import estimate_training
from sia_runner.proposers.files import MAX_HARNESS_BYTES, MAX_HARNESS_FILES
from sia_runner.proposers.protocol import (
    EarlierCandidate,
    Files,
    GuestResult,
    MeasuredRewards,
    ProposerError,
    Services,
)
from sia_runner.records import Json, ModelReply, ToolCall, Trial, Usage, count_kinds
from sia_runner.sandbox.protocol import SandboxJob
from sia_runner.store.files import LineReader, read_tail, read_utf8, regular_files
from sia_runner.store.run_directory import HarnessRunDir, read_json, remove_tree, tree_sha256, write_json, write_text
from sia_runner.tasks.collect import CopyQuota, collect_tree, read_refusal
from sia_runner.text import strip_control_characters
from sia_runner.wire.grants import BudgetSpent, Grant, ProviderDown

if TYPE_CHECKING:
    from sia_runner.gateway.service import GatewayService


class RecordedReplies:
    """The calls of one proposal: recorded answers are returned until a request differs, from which on all are made."""

    def __init__(self, path: Path) -> None:
        self._path, self._position = path, 0
        self._recorded: list[Json] = []
        lines = LineReader(path.parent, path.name, max_line_bytes=1 << 62).fresh(limit=1 << 62)
        with suppress(ValueError):
            self._recorded = [json.loads(line.data) for line in lines]

    def answer(self, request: Any, ask: Callable[[], ModelReply]) -> ModelReply:
        """Return the recorded reply to `request` (JSON data), or call `ask()` and record its reply."""
        digest = hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()
        position, self._position = self._position, self._position + 1
        if position < len(self._recorded) and self._recorded[position]["request_sha256"] == digest:
            reply: Json = self._recorded[position]["reply"]
            calls = tuple(ToolCall(**call) for call in reply["tool_calls"])
            return ModelReply(reply["text"], calls, reply["finish_reason"], reply["message"], Usage(**reply["usage"]))
        del self._recorded[position:]
        answer = ask()
        self._recorded.append({"request_sha256": digest, "reply": asdict(answer)})
        self._path.parent.mkdir(parents=True, exist_ok=True)
        write_text(self._path, "".join(json.dumps(line) + "\n" for line in self._recorded))
        return answer


def _proposer_gateway(context: RunContext) -> "GatewayService":
    if context.gateway is None:
        raise ProposerError(f"meta_agent={context.config.meta_agent.name} calls a model; give it a key `provider`")
    return context.gateway


class ServiceQueue:
    """Carries out what a guest asks of its host, one request after another; on exit it waits for the one under way."""

    def __init__(self, services: Services) -> None:
        self._services, self._worker = services, ThreadPoolExecutor(1, thread_name_prefix="guest")

    def submit(self, name: str, body: Json) -> Future[Json]:
        """Queue a request. The future raises what the service raises; it is cancelled where the queue closes first."""
        answer = Future[Json]()
        if name not in self._services:
            answer.set_result({"error": f"there is no service of that name; there are: {', '.join(self._services)}"})
            return answer
        try:
            return self._worker.submit(self._services[name], body)
        except RuntimeError:
            answer.set_result({"error": "the proposal has ended"})
            return answer

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._worker.shutdown(wait=kind is None, cancel_futures=True)  # an interrupt does not wait for a trial


_MAX_FAILURE_BYTES = 128 * 1024  # bytes of the failures of one earlier candidate
_GUEST_OUTPUT_BYTES = 16 * 1024  # bytes kept of what a guest printed
_MAX_EXAMPLES = 8  # dev failures shown of one trial
_TRIAL_OUTPUT_BYTES = 4 * 1024  # bytes shown of what a trial printed


class ProposalWorkbench:
    """The workbench of one proposal in `folder`; harnesses run on the weights of `parent`, and trials are stored."""

    def __init__(self, context: RunContext, n: int, folder: Path, parent: int | None, model: str | None = None) -> None:
        """Build it. `model`: of search.proposer_models, the one that answers; None: the provider's own."""
        self._context, self._n, self._folder, self._parent = context, n, folder, parent
        self._model = None if model == getattr(context.config.meta_provider, "model", None) else model
        self._adapter = context.run.adapter_of(parent)
        self._dialogue = RecordedReplies(folder / "dialogue.jsonl")

    def try_out(self, batch: Sequence[Files], *, share: float, questions: int | None = None) -> list[Trial]:
        """Run each harness on dev questions; see Workbench.try_out."""
        if self._context.config.control and self._n > 1:
            raise ProposerError(f"{self._context.config.meta_agent.name} tries harnesses, but Brief.blind forbids it")
        train_fraction, questions = self._effort(share, questions)
        return self._context.compute.map(lambda files: self._trial(files, train_fraction, questions), batch)

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

    def earlier_candidate(self, n: int) -> EarlierCandidate:
        """Return the harness of an earlier candidate, and dev questions that it failed."""
        context, generation = self._context, self._context.run.generation(n)
        files = read_harness(generation.harness) if generation.harness.is_dir() else {}
        if not generation.scores.is_file():
            return EarlierCandidate(files, ())
        failures, _ = choose_failures(
            CandidateEvidence.of(context, n, ()), context.config.evidence.max_failures, _MAX_FAILURE_BYTES
        )
        return EarlierCandidate(files, [dict(failure.content) for failure in failures])

    def host(
        self,
        program: Files,
        entry: str,
        *,
        inputs: Path,
        harness: Files,
        calls: int,
        seconds: float,
        services: Services | None = None,
    ) -> GuestResult:
        """Run another package's agent in the sandbox, in a cleared folder; its files are copied out within limits."""
        context, site = self._context, HarnessRunDir(self._folder / "guest")
        gateway = _proposer_gateway(context)
        site.clear()
        guest, harness_folder = site.path / "program", site.work / "harness"
        try:
            write_harness(program, guest, entry)
        except FaultyHarness as refused:
            raise ProposerError(f"meta_agent={context.config.meta_agent.name}: {refused}") from refused
        harness_folder.mkdir(parents=True)
        for name, text in harness.items():  # the entry program may be missing: then the guest has to write it
            (harness_folder / name).parent.mkdir(parents=True, exist_ok=True)
            (harness_folder / name).write_text(text, encoding="utf-8")
        queue = ServiceQueue(services or {})
        with gateway.open_session(self._grant(calls), "".join(program.values()), queue.submit) as session, queue:
            limits, address = context.sandbox_limits(seconds), session.address
            job = SandboxJob(guest, entry, data=inputs, work=site.work, log=site.log, limits=limits, gateway=address)
            ending = context.sandbox.run(job)
        raise_if_stopped(ending, gateway)
        trouble = session.trouble()
        if trouble and not (isinstance(trouble, BudgetSpent) and trouble.scope == "grant"):
            raise trouble
        if refusal := session.refusal():  # nothing was answered: the agent would be refused in every generation
            raise ProviderDown(f"the provider refuses all requests of the agent alike: {refusal}")
        if harness_folder.is_dir() and not harness_folder.is_symlink():  # the guest has exited: it cannot be swapped
            quota = CopyQuota(MAX_HARNESS_FILES, MAX_HARNESS_BYTES)
            collect_tree(harness_folder, site.submission, quota, leave=frozenset())
        output, usage = read_tail(site.log, _GUEST_OUTPUT_BYTES), session.usage()
        if refused := read_refusal(site.submission):
            return GuestResult({}, f"what the guest left in harness/ cannot be taken: {refused}", output, usage)
        texts = {path: read_utf8(path) for path in sorted(regular_files(site.submission))}
        # a harness is text: other files cannot be proposed
        files = {path.relative_to(site.submission).as_posix(): text for path, text in texts.items() if text is not None}
        return GuestResult(files, describe_failure(ending, site.log), output, usage)

    def _effort(self, share: float, questions: int | None) -> tuple[float, int | None]:
        """Return the share of train and the number of dev questions (None: all) for `share` of the full cost."""
        task = self._context.task
        if self._context.config.calls_model and share < 1:
            dev = len(task.splits()["dev"])
            return 1.0, max(1, math.ceil(share * min(dev, questions or dev)))
        # without training data the share makes no difference
        return share if any(fold.train for fold in task.rounds("trial")) else 1.0, questions

    def _grant(self, calls: int | None = None) -> Grant:
        path = self._folder / "proposer.jsonl"
        return Grant("meta", self._n, f"gen_{self._n}", "propose", path, calls=calls, model=self._model)

    def _trial(self, files: Files, train_fraction: float, questions: int | None) -> Trial:
        from filelock import FileLock

        weights = tree_sha256(self._adapter) if self._adapter else None
        content = json.dumps([dict(files), train_fraction, questions, weights], sort_keys=True)
        name = hashlib.sha256(content.encode(errors="backslashreplace")).hexdigest()[:16]
        site = HarnessRunDir(self._context.run.trials / name)
        record = site.path / "trial.json"
        site.path.mkdir(parents=True, exist_ok=True)
        with FileLock(site.path.with_suffix(".lock")):  # parallel proposals may have the same idea
            if record.is_file():
                stored: Json = read_json(record)
                stored["examples"] = tuple(stored["examples"])
                return Trial(**stored)
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
        (fold,), harness, config = rounds, site.path / "harness", self._context.config
        if fault := write_or_fault(self._context, files, harness):
            return Trial(0.0, len(fold.questions), 0.0, fault), True
        grant = Grant("target", self._n, f"trial_{name}", "trial", site.trajectories, adapter=self._adapter)
        execution = execute(self._context, grant, fold, site, harness, f"{config.seed}:trial", config.task.limits.run)
        outcomes = verify_submission(self._context, site, execution.unanswered)
        printed = "" if harness_saw_val_labels(task) else read_tail(site.log, _TRIAL_OUTPUT_BYTES)
        for part in (site.work, site.submission, site.keys, site.trajectories, site.faults):
            remove_tree(part)
        failures = task.failures(outcomes, _MAX_EXAMPLES)
        longest = longest_prediction(task, failures)
        score, no_score = score_outcomes(task, outcomes)
        unfair = infrastructure_failure(outcomes) or no_score
        return Trial(
            value=score.value if score else 0.0,
            n=len(outcomes),
            seconds=round(execution.ended.seconds, 2),
            failure=execution.failure or unfair,
            outcomes=count_kinds(outcomes),
            examples=tuple(failure | {"prediction": failure["prediction"][:longest]} for failure in failures),
            output=strip_control_characters(printed),
        ), not unfair
