"""Runs of a harness as logs of Inspect AI: a sample for each question, with its model calls, outcome and score."""
# pyright: reportMissingImports=false

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from inspect_ai.event import ModelEvent
from inspect_ai.log import (
    EvalConfig,
    EvalDataset,
    EvalError,
    EvalLog,
    EvalMetric,
    EvalPlan,
    EvalPlanStep,
    EvalResults,
    EvalSample,
    EvalScore,
    EvalSpec,
    EvalStats,
    write_eval_log,
)
from inspect_ai.model import (
    ChatCompletionChoice,
    ChatMessage,
    ChatMessageAssistant,
    ChatMessageSystem,
    ChatMessageTool,
    ChatMessageUser,
    Content,
    ContentReasoning,
    ContentText,
    GenerateConfig,
    ModelOutput,
    ModelUsage,
    StopReason,
)
from inspect_ai.scorer import Score as InspectScore
from inspect_ai.tool import ToolCall as InspectToolCall
from inspect_ai.tool import ToolInfo, ToolParams

from sia_runner import __version__
from sia_runner.records import INFRASTRUCTURE_KINDS
from sia_runner.results.conversations import HarnessRunExport, Message, ModelCall, QuestionCalls, parsed_arguments
from sia_runner.results.questions import NOT_VERIFIED, UNTAGGED
from sia_runner.text import one_line

_STOP_REASONS: Mapping[str, StopReason] = {
    "stop": "stop",
    "end_turn": "stop",
    "stop_sequence": "stop",
    "length": "max_tokens",
    "max_tokens": "max_tokens",
    "tool_calls": "tool_calls",
    "tool_use": "tool_calls",
    "content_filter": "content_filter",
    "refusal": "content_filter",
}

_SharedMessages = dict[tuple[Message, int], ChatMessage]  # a message, and how many equal ones stand before it


def write_inspect_log(export: HarnessRunExport, folder: Path) -> tuple[Path, int]:
    """Write one harness run as a log; return its path and the number of samples."""
    samples = [_sample(export, each, number) for number, each in enumerate(export.questions(), 1)]
    began = export.began or datetime.now(UTC)
    # the viewer takes logs with the same task and id in their names for retries of one another
    name = f"{export.task}-{export.name}".replace("_", "-")
    digest = hashlib.sha256(f"{export.run.name}/{export.folder}".encode()).hexdigest()[:22]
    models = sorted({event.model for sample in samples for event in sample.events if isinstance(event, ModelEvent)})
    spec = EvalSpec(
        created=began.isoformat(),
        eval_id=digest,
        run_id=hashlib.sha256(export.run.name.encode()).hexdigest()[:22],
        task=name,
        task_id=digest,
        dataset=EvalDataset(name=export.task, samples=len(samples), sample_ids=[str(each.id) for each in samples]),
        model=models[0] if len(models) == 1 else ", ".join(models)[:200] or "none",
        config=EvalConfig(),
        packages={"sia_runner": __version__},
        metadata={"run": export.run.name, "harness_run": export.folder, "candidate": export.description},
        tags=["sia-runner", export.scored_split],
    )
    log = EvalLog(
        status="success" if export.score else "error",
        eval=spec,
        plan=EvalPlan(steps=[EvalPlanStep(solver=f"harness of {export.folder}")]),
        results=_results(export, samples),
        stats=_stats(samples, began),
        error=None if export.score else _error(export.failure or "not scored"),
        samples=samples,
    )
    path = folder / f"{began:%Y-%m-%dT%H-%M-%S+00-00}_{name}_{digest}.eval"
    write_eval_log(log, str(path))
    return path, len(samples)


def _results(export: HarnessRunExport, samples: Sequence[EvalSample]) -> EvalResults | None:
    if export.score is None:
        return None
    low, high = export.score.ci95
    values = {export.metric: export.score.value, "95% low": low, "95% high": high}
    metrics = {name: EvalMetric(name=name, value=value) for name, value in values.items()}
    score = EvalScore(name=f"{export.metric} on {export.scored_split}", scorer="verifier", metrics=metrics)
    score.scored_samples = export.score.n
    completed = sum(sample.error is None for sample in samples)
    return EvalResults(total_samples=len(samples), completed_samples=completed, scores=[score])


def _stats(samples: Sequence[EvalSample], began: datetime) -> EvalStats:
    usage: dict[str, ModelUsage] = {}
    ended = began
    for sample in samples:
        for model, used in sample.model_usage.items():
            usage[model] = usage.get(model, ModelUsage()) + used
        for event in sample.events:
            if isinstance(event, ModelEvent):
                ended = max(ended, event.completed or event.timestamp)
    return EvalStats(started_at=began.isoformat(), completed_at=ended.isoformat(), model_usage=usage)


def _error(message: str) -> EvalError:
    return EvalError(message=one_line(message, 500), traceback="", traceback_ansi="")


def _sample(export: HarnessRunExport, question: QuestionCalls, number: int) -> EvalSample:
    """Return one question. Where a failure is not the candidate's, the sample has an error and no score."""
    row, conversations = question.row, question.conversations()
    name = UNTAGGED if row.number < 0 else one_line(row.unit)
    if row.number >= 0 and name != row.unit:
        name = f"{name} ({number})"  # two ids may look alike once they are cleaned
    messages: list[ChatMessage] = []
    shared: _SharedMessages = {}  # what later calls send again is there once: else memory grows as a square
    if conversations:
        last = conversations[-1][-1]
        messages = [*_converted(last.messages, shared), *([_assistant(last)] if last.reply else [])]
    events = [_event(call, shared) for call in question.calls]
    scored = row.value is not None and row.kind not in INFRASTRUCTURE_KINDS
    answer, explanation = one_line(row.prediction, 500), f"{row.kind}, {export.split(row.unit) or 'split not known'}"
    score = InspectScore(value=row.value or 0.0, answer=answer, explanation=explanation, metadata={"kind": row.kind})
    usage: dict[str, ModelUsage] = {}
    for event in events:
        usage[event.model] = usage.get(event.model, ModelUsage()) + (event.output.usage or ModelUsage())
    failed = row.number >= 0 and not scored and row.kind != NOT_VERIFIED
    times = [(event.timestamp, event.completed or event.timestamp) for event in events]
    return EvalSample(
        id=name,
        epoch=1,
        input=_converted(question.calls[0].messages, shared) if question.calls else name,
        target=export.gold.get(row.unit, ""),
        messages=messages,
        output=events[-1].output if events else ModelOutput(),
        scores={"verifier": score} if scored else None,
        metadata={"kind": row.kind, "split": export.split(row.unit), "conversations": len(conversations)},
        events=list(events),
        model_usage=usage,
        error=_error(row.kind) if failed else None,
        started_at=min(start for start, _ in times).isoformat() if times else None,
        completed_at=max(end for _, end in times).isoformat() if times else None,
        total_time=sum(call.seconds for call in question.calls),
    )


def _event(call: ModelCall, shared: _SharedMessages) -> ModelEvent:
    began = call.at or datetime.fromtimestamp(0, UTC)
    usage = ModelUsage(
        input_tokens=call.input_tokens,
        output_tokens=call.output_tokens,
        total_tokens=call.input_tokens + call.output_tokens,
        input_tokens_cache_read=call.cached_tokens or None,
        total_cost=call.usd,
    )
    stop = _STOP_REASONS.get(call.finish_reason.lower(), "unknown")
    choices = [ChatCompletionChoice(message=_assistant(call), stop_reason=stop)] if call.reply else []
    output = ModelOutput(model=call.model, choices=choices, usage=usage, time=call.seconds, error=call.error or None)
    return ModelEvent(
        timestamp=began,
        working_start=0.0,
        model=call.model,
        input=_converted(call.messages, shared),
        tools=list(_tools(call)),
        tool_choice="auto",
        config=GenerateConfig(),
        output=output,
        error=call.error or None,
        completed=began + timedelta(seconds=call.seconds),
        working_time=call.seconds,
    )


def _tools(call: ModelCall) -> Iterator[ToolInfo]:
    for tool in call.tools:
        about = tool["function"]
        properties: Any = about["parameters"].get("properties")
        names = map(str, properties) if isinstance(properties, dict) else ()
        # a schema of a harness may be anything; the names of its parameters are what a reader needs
        parameters = ToolParams.model_validate({"properties": {name: {} for name in names}})
        yield ToolInfo(name=about["name"], description=about["description"], parameters=parameters)


def _converted(messages: Sequence[Message], shared: _SharedMessages) -> list[ChatMessage]:
    """Return the messages as Inspect's, each taken from `shared` if it is there; equal ones of a list stay two."""
    counts, converted = Counter[Message](), list[ChatMessage]()
    for message in messages:
        key = message, counts[message]
        counts[message] += 1
        if key not in shared:
            shared[key] = _message(message)
        converted.append(shared[key])
    return converted


def _message(message: Message) -> ChatMessage:
    if message.role == "assistant":
        calls = _tool_calls(message)
        return ChatMessageAssistant(content=message.text, tool_calls=calls or None)
    if message.role == "tool":
        return ChatMessageTool(content=message.text, tool_call_id=message.call_id or None)
    kind = ChatMessageSystem if message.role == "system" else ChatMessageUser
    return kind(content=message.text)


def _assistant(call: ModelCall) -> ChatMessageAssistant:
    reply = call.reply or Message("assistant", "")
    content: str | list[Content] = reply.text
    if call.reasoning:
        content = [ContentReasoning(reasoning=call.reasoning), ContentText(text=reply.text)]
    return ChatMessageAssistant(
        content=content, tool_calls=_tool_calls(reply) or None, model=call.model, source="generate"
    )


def _tool_calls(message: Message) -> list[InspectToolCall]:
    return [
        InspectToolCall(id=call.id, function=call.name, arguments=parsed_arguments(call)) for call in message.tool_calls
    ]
