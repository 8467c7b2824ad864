"""The steps that all attempts of a call share: settling the reservation and writing the record."""

import time
import uuid
from dataclasses import asdict, dataclass

from sia_runner.models.endpoints import Endpoint
from sia_runner.models.failures import Failed
from sia_runner.models.intake import Emit, Intake
from sia_runner.models.ledger import Reservation
from sia_runner.models.stay import Stay
from sia_runner.models.tokens import bound, estimate
from sia_runner.models.trajectories import Record, Spent
from sia_runner.models.wire import Api, Asked, Body, Summary
from sia_runner.records import Sampled, Usage


@dataclass(slots=True)
class Call:
    """The state that the steps of one call share."""

    session: Stay
    endpoint: Endpoint
    request: Asked
    emit: Emit
    record: Record


def settle(call: Call, reservation: Reservation, summary: Summary) -> None:
    """Settle an answered attempt at the tokens that the answer reports."""
    usage = counted(call.request, summary)
    usd = reservation.settle(
        input_tokens=usage.input,
        output_tokens=usage.output,
        cached_tokens=usage.cached,
        written_tokens=summary.written_tokens,
    )
    call.record.usage, call.record.usd = usage, usd
    call.session.spend(Usage(usd or 0.0, usage.input + usage.output, 1))


def lost(call: Call, reservation: Reservation, failed: Failed, buffer: Intake) -> None:
    """Settle a failed attempt. An error status costs nothing; anything else may have been charged for."""
    if failed.status is not None and failed.sent and not buffer.emitted:
        reservation.settle(input_tokens=0, output_tokens=0)
        call.session.spend(Usage(calls=1))
        return
    reservation.unanswered(may_be_charged=failed.sent)
    if failed.sent:
        call.session.spend(Usage(tokens=bound(call.request.raw) + call.request.output_tokens, calls=1))


def counted(request: Asked, summary: Summary) -> Spent:
    """Return the tokens of an answer: the provider's counts, or an estimate where it gives none."""
    if summary.input_tokens is not None and summary.output_tokens is not None:
        return Spent(summary.input_tokens, summary.output_tokens, summary.cached_tokens)
    text = summary.text + "".join(call["name"] + call["arguments"] for call in summary.tool_calls)
    return Spent(estimate(request.raw.decode()), estimate(text), estimated=True)


def record_of(session: Stay, request: Asked) -> Record:
    """Return the record of a call that begins now."""
    grant = session.grant
    labels = (grant.candidate, grant.purpose, request.question, grant.sample)
    call, at = uuid.uuid4().hex, round(time.time(), 3)
    return Record(call, at, *labels, request.api, request.asked_model, request=request.body)


def refuse(session: Stay, api: Api, body: Body, question: str | None, failed: Failed) -> None:
    """Record a request that was refused before it became a call."""
    request = Asked(api, body, False, str(body.get("model", ""))[:200], question, 0, raw=b"-")
    record = record_of(session, request)
    record.error = {"kind": failed.kind, "message": failed.message}
    session.finished(record, failed, None)


def note(record: Record, summary: Summary, sampled: Sampled | None) -> None:
    """Write the answer and the sampled tokens into the record."""
    record.tokens = asdict(sampled) if sampled else None
    record.model, record.finish_reason = summary.model, summary.finish_reason
    record.response = {"text": summary.text, "tool_calls": summary.tool_calls}
