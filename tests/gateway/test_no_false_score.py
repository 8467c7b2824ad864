"""Whatever a provider does: a question whose call it failed is never a wrong answer, and its candidate is unscored."""

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from sia_runner.experiment.execution import infrastructure_failure
from sia_runner.gateway.backends import AnswerBuffer
from sia_runner.gateway.session import CallRecord, GatewaySession
from sia_runner.records import INFRASTRUCTURE_KINDS, CallFailures, GatewayAddress, Outcome, OutcomeKind
from sia_runner.selection.scoring import correct_outcomes
from sia_runner.wire.failures import CallError, error_of_body
from sia_runner.wire.grants import Grant
from sia_runner.wire.requests import ModelRequest
from tests.gateway.behaviours import Behaviour, behaviours
from tests.gateway.gateway_kit import HI

BLAMED = [
    OutcomeKind.WRONG,
    OutcomeKind.NO_ANSWER,
    OutcomeKind.INVALID_FORMAT,
    OutcomeKind.PARTIAL,
    OutcomeKind.CRASHED,
]
GRANT = Grant("target", 1, "gen_1", "select", None)
CHUNK = b'data: {"choices": [{"index": 0, "delta": {"content": "half"}, "finish_reason": null}]}\n\n'


def whole(choice: str) -> Behaviour:
    return Behaviour("openai", False, False, "as reported", 200, b'{"choices": [' + choice.encode() + b"]}")


def streamed(end: bytes) -> Behaviour:
    return Behaviour("openai", True, False, "as reported", 200, CHUNK + end + b"data: [DONE]\n\n")


def read(behaviour: Behaviour) -> tuple[CallError | None, str | None]:
    """Return how a call ends that gets this from the provider: its failure, or its finish reason."""
    request = ModelRequest(behaviour.api, {"messages": HI}, behaviour.stream, "m", None, 10)

    async def ignore(data: bytes) -> None:
        del data

    async def call() -> str | None:
        if behaviour.status >= 400:
            raise error_of_body(behaviour.status, {}, behaviour.body)
        if behaviour.status != 200:
            raise CallError("malformed", f"status {behaviour.status}", final=True)
        buffer = AnswerBuffer(request, ignore, keep=False)
        await buffer.take(behaviour.body)
        return buffer.finish().finish_reason

    try:
        coroutine = call()
        coroutine.send(None)  # nothing in it waits
    except StopIteration as ended:
        return None, ended.value
    except CallError as failed:
        return failed, None
    raise AssertionError("the call waits")


def judged(session: GatewaySession, kind: OutcomeKind, question: str | None) -> Outcome:
    faults = CallFailures.from_json(session.faults().to_json())
    keys = {"all": "all"} if question == "of the harness" else {"q1": "all"}
    (outcome,) = correct_outcomes([Outcome("all", kind, 0.25, "x")], faults, keys)
    return outcome


MANY = st.tuples(behaviours(), st.sampled_from(BLAMED), st.sampled_from(["q1", None, "of the harness", "agent"]))


@settings(max_examples=150, deadline=None)
@given(MANY)
@example((whole('{"message": {"content": "half"}, "error": {"code": 502}, "finish_reason": "stop"}'), BLAMED[0], "q1"))
@example((whole('{"message": {"content": "half"}, "finish_reason": "error"}'), BLAMED[0], "q1"))
@example((whole('{"message": {"content": ""}, "finish_reason": null}'), BLAMED[0], "q1"))
@example((streamed(b'data: {"choices": [{"delta": {}, "finish_reason": "error"}]}\n\n'), BLAMED[0], "q1"))
@example((streamed(b'data: {"choices": [{"delta": {"content": "t"}, "error": "x"}]}\n\n'), BLAMED[0], "q1"))
@example((streamed(b'data: {"choices": []}\n\n'), BLAMED[0], "q1"))
@example((Behaviour("openai", False, False, "429", 429, b""), OutcomeKind.PARTIAL, "of the harness"))
def test_a_call_that_the_provider_failed_is_never_held_against_the_candidate(case):
    assert_no_false_score(*case)


@pytest.mark.slow
@settings(max_examples=3000, deadline=None)
@given(MANY)
def test_nor_in_thousands_of_ways_to_fail(case):
    assert_no_false_score(*case)


def assert_no_false_score(behaviour: Behaviour, kind: OutcomeKind, question: str | None) -> None:
    failed, reason = read(behaviour)
    assert (failed is None) is behaviour.sound, failed
    session = GatewaySession(GRANT, GatewayAddress(None, {}), None)  # pyright: ignore[reportArgumentType]
    record = CallRecord("c", 0.0, "gen_1", "select", question, None, behaviour.api, "m", request={"messages": HI})
    record.finish_reason = reason
    session.finished(record, failed, None)
    outcome = judged(session, kind, question)
    if behaviour.sound:
        assert outcome.kind is kind and not infrastructure_failure([outcome])
    else:
        assert outcome.kind in INFRASTRUCTURE_KINDS, (behaviour, outcome)
        assert infrastructure_failure([outcome])


def test_a_failure_counts_until_the_same_request_is_answered():
    session = GatewaySession(GRANT, GatewayAddress(None, {}), None)  # pyright: ignore[reportArgumentType]
    limited = CallError("rate_limited", "slow down")

    def call(text: str, at: float, failed: CallError | None = None) -> None:
        record = CallRecord("c", at, "gen_1", "select", "q1", None, "openai", "m", request={"text": text})
        session.finished(record, failed, None)

    call("first", 0.0, limited)
    call("another", 4e9)
    assert session.faults().questions == {"q1": OutcomeKind.RATE_LIMITED}
    call("first", 0.0)  # sent at the same time as the one that failed: another vote
    assert session.faults().questions == {"q1": OutcomeKind.RATE_LIMITED}
    call("first", 4e9)
    assert session.faults().questions == {}


def test_a_request_refused_for_its_length_is_the_harnesss_once_others_are_answered():
    session = GatewaySession(GRANT, GatewayAddress(None, {}), None)  # pyright: ignore[reportArgumentType]
    too_long = error_of_body(400, {}, b'{"error": {"message": "maximum context length is 4096 tokens"}}')

    def call(question: str, failed: CallError | None = None) -> None:
        record = CallRecord("c", 0.0, "gen_1", "select", question, None, "openai", "m", request={"text": question})
        session.finished(record, failed, None)

    call("long", too_long)
    assert session.faults().questions == {"long": OutcomeKind.REFUSED}
    assert "4096 tokens" in session.refusal()
    call("short")
    assert session.faults().questions == {"long": OutcomeKind.NO_ANSWER} and not session.refusal()
    (outcome,) = correct_outcomes([Outcome("u", OutcomeKind.NO_ANSWER, 0.0)], session.faults(), {"long": "u"})
    assert outcome.kind is OutcomeKind.NO_ANSWER and "4096 tokens" in outcome.prediction


@pytest.fixture
def raw_server():
    """An HTTP server that sends the bytes of the behaviour in `state`."""
    state: dict[str, Behaviour] = {}

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            behaviour = state["behaviour"]
            self.send_response(behaviour.status)
            self.send_header("content-type", "text/event-stream" if behaviour.stream else "application/json")
            self.send_header("content-length", str(len(behaviour.body)))
            self.end_headers()
            self.wfile.write(behaviour.body)

        def log_message(self, format: str, *args: object) -> None:
            del format, args

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/v1", state
        server.shutdown()
        thread.join()


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(behaviour=behaviours())
def test_it_is_the_same_through_the_gateway(scene, raw_server, behaviour):
    url, state = raw_server
    state["behaviour"] = behaviour
    scene.open(base_url=url, api=behaviour.api, attempts=1)
    path = {"openai": "/v1/chat/completions", "anthropic": "/v1/messages"}[behaviour.api]
    body = {"model": "m", "messages": HI, "max_tokens": 9, "stream": behaviour.stream}
    try:
        with scene.session() as guest, guest.http() as http:
            answer = http.post(path, json=body, headers={"x-sia-question": "q1"})
            assert (answer.status_code == 200 and b'"error"' not in answer.content) or not behaviour.sound
        outcome = judged(guest.session, OutcomeKind.WRONG, "q1")
        assert (outcome.kind is OutcomeKind.WRONG) is behaviour.sound, (behaviour, outcome)
    finally:
        scene.models.close()
