"""What one call has in common from its first attempt to its last, and how each is settled and written down."""

import time
import uuid
from dataclasses import asdict, dataclass

from sia_runner.models import tokens
from sia_runner.models.endpoints import Endpoint
from sia_runner.models.failures import Failed
from sia_runner.models.intake import Emit, Intake
from sia_runner.models.ledger import Reservation
from sia_runner.models.stay import Stay
from sia_runner.models.trajectories import Record, Spent
from sia_runner.models.wire import Api, Asked, Body, Summary
from sia_runner.records import Sampled, Usage


@dataclass(slots=True)
class Call:
    """What the steps of one call share."""

    stay: Stay
    endpoint: Endpoint
    asked: Asked
    emit: Emit
    record: Record


def settle(call: Call, judged: Reservation, summary: Summary) -> None:
    used = counted(call.asked, summary)
    usd = judged.settle(
        input_tokens=used.input,
        output_tokens=used.output,
        cached_tokens=used.cached,
        written_tokens=summary.written_tokens,
    )
    call.record.usage, call.record.usd = used, usd
    call.stay.spend(Usage(usd or 0.0, used.input + used.output, 1))


def lost(call: Call, judged: Reservation, failed: Failed, intake: Intake) -> None:
    """A status is an answer that costs nothing; anything else may have been charged for."""
    if failed.status is not None and failed.sent and not intake.emitted:
        judged.settle(input_tokens=0, output_tokens=0)
        call.stay.spend(Usage(calls=1))
        return
    judged.unanswered(sent=failed.sent)
    if failed.sent:
        call.stay.spend(Usage(tokens=tokens.bound(call.asked.raw) + call.asked.output_tokens, calls=1))


def counted(asked: Asked, summary: Summary) -> Spent:
    if summary.input_tokens is not None and summary.output_tokens is not None:
        return Spent(summary.input_tokens, summary.output_tokens, summary.cached_tokens)
    said = summary.text + "".join(call["name"] + call["arguments"] for call in summary.tool_calls)
    return Spent(tokens.estimate(asked.raw.decode()), tokens.estimate(said), estimated=True)


def record_of(stay: Stay, asked: Asked) -> Record:
    grant = stay.grant
    where = (grant.candidate, grant.purpose, asked.question, grant.sample)
    call, at = uuid.uuid4().hex, round(time.time(), 3)
    return Record(call, at, *where, asked.api, asked.asked_model, request=asked.body)


def refuse(stay: Stay, api: Api, body: Body, question: str | None, failed: Failed) -> None:
    """Write down a request that was never to be a call."""
    asked = Asked(api, body, False, str(body.get("model", ""))[:200], question, 0, raw=b"-")
    record = record_of(stay, asked)
    record.error = {"kind": failed.kind, "message": failed.message}
    stay.finished(record, failed, None)


def note(record: Record, summary: Summary, sampled: Sampled | None) -> None:
    record.tokens = asdict(sampled) if sampled else None
    record.model, record.finish_reason = summary.model, summary.finish_reason
    record.response = {"text": summary.text, "tool_calls": summary.tool_calls}
