"""A provider goes wrong: the tests check what the harness, the ledger and the records see of it."""

import json
import re
import resource
import socketserver
import threading
import time
from contextlib import contextmanager
from email.utils import formatdate

import anthropic
import openai
import pytest

from sia_runner.records import OutcomeKind
from sia_runner.wire.grants import ProviderDown
from tests.gateway.gateway_kit import HI
from tests.provider import Answer, Endless, Hang, Huge, Malformed, Reset, Status, Truncated

LIMITED = OutcomeKind.RATE_LIMITED
APIS = pytest.mark.parametrize("api", ["openai", "anthropic", "litellm"])


FAULTS = [Status(429), Status(500), Reset(), Truncated(), Malformed()]
STATUSES = [Status(code) for code in (408, 409, 425, 503, 529)]


@pytest.mark.parametrize(
    ("api", "fault"),
    [
        *((api, fault) for api in ("openai", "anthropic", "litellm") for fault in FAULTS),
        *(("openai", status) for status in STATUSES),
    ],
    ids=repr,
)
def test_what_is_transient_is_tried_again(scene, api, fault):
    scene.open(api=api, attempts=3)
    scene.reactions = [fault, fault]
    with scene.session() as guest:
        assert guest.ask() == "hello"
        assert guest.session.faults().questions == {}
    assert scene.records()[0]["attempts"] == 3
    assert scene.spent()[0] == scene.counted()[0] == 3


@pytest.mark.parametrize("code", [400, 404, 413, 422])
def test_a_request_that_is_refused_is_not_sent_again(scene, code):
    scene.open()
    scene.reactions = [Answer("ready"), Status(code, message="too long for me")]
    with scene.session() as guest:
        guest.ask()
        with pytest.raises(openai.APIStatusError, match="too long") as raised:
            guest.ask()
    assert raised.value.status_code == code
    assert scene.records()[1]["error"]["kind"] == "bad_request"
    assert scene.spent()[0] == scene.counted()[0] == 2


@pytest.mark.parametrize("header", [{"retry-after": "1"}, {"retry-after-ms": "1000"}])
def test_a_retry_after_is_honoured(scene, header):
    scene.open(max_wait_seconds=5.0)
    scene.reactions = [Status(429, headers=header)]
    began = time.monotonic()
    with scene.session() as guest:
        assert guest.ask() == "hello"
    assert 1.0 <= time.monotonic() - began < 3


def test_a_retry_after_may_be_a_date(scene):
    scene.open(max_wait_seconds=5.0)
    scene.reactions = [Status(503, headers={"retry-after": formatdate(time.time() + 2, usegmt=True)})]
    began = time.monotonic()
    with scene.session() as guest:
        assert guest.ask() == "hello"
    assert time.monotonic() - began >= 0.9  # dates have whole seconds


def test_more_patience_than_there_is_fails_at_once_as_rate_limited(scene):
    scene.open(max_wait_seconds=5.0)
    scene.otherwise = Status(429, headers={"retry-after": "3600"})
    began = time.monotonic()
    with scene.session() as guest:
        with pytest.raises(openai.RateLimitError):
            guest.ask(user="q7")
        assert guest.session.faults().questions == {"q7": LIMITED}
    assert time.monotonic() - began < 2
    assert scene.records()[0]["error"]["kind"] == "rate_limited"


@APIS
def test_a_provider_that_hangs_is_a_timeout(scene, api):
    scene.open(api=api, timeout=0.3, attempts=2)
    scene.otherwise = Hang(20)
    with scene.session() as guest:
        with pytest.raises(openai.InternalServerError, match=r"0\.3 s"):
            guest.ask(user="q")
        assert guest.session.faults().questions == {"q": LIMITED}
    assert scene.records()[0]["error"]["kind"] == "timeout"
    assert scene.spent()[0] == 2


@APIS
@pytest.mark.parametrize("stream", [False, True])
def test_an_endless_answer_is_cut_by_time(scene, api, stream):
    scene.open(api=api, timeout=0.5, attempts=1)
    scene.otherwise = Endless()
    with scene.session() as guest, pytest.raises(openai.APIError, match="no complete answer"):
        answer = guest.openai().chat.completions.create(model="m", messages=HI, stream=stream)
        for _ in answer:
            pass
    assert scene.records()[0]["error"]["kind"] == "timeout"


@pytest.mark.parametrize("api", ["openai", "anthropic"])
@pytest.mark.parametrize("stream", [False, True])
def test_a_huge_answer_is_cut_by_size_and_memory_stays_flat(scene, api, stream):
    scene.open(api=api, timeout=60.0)
    scene.models.chat(scene.grant(trajectories=scene.folder / "warm"), HI, [])  # litellm is loaded
    scene.otherwise = Huge(200 << 20)
    with scene.session() as guest:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        with pytest.raises(openai.APIError, match="16 MiB"):
            for _ in guest.openai().chat.completions.create(model="m", messages=HI, stream=stream):
                pass
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before  # KiB, of server and client too
    assert grown < 120 << 10
    assert scene.records()[0]["error"]["kind"] == "too_large"
    assert scene.counted()[0] == 2


@APIS
def test_a_stream_that_has_begun_is_not_begun_again(scene, api):
    scene.open(api=api)
    scene.otherwise = Reset(after=2)
    with scene.session() as guest:
        with pytest.raises(openai.APIError):
            for _ in guest.openai().chat.completions.create(model="m", messages=HI, stream=True, user="q"):
                pass
        assert guest.session.faults().questions == {"q": LIMITED}
    assert scene.spent()[0] == scene.counted()[0] == 1


@APIS
def test_half_a_stream_is_a_failure_of_the_anthropic_client_too(scene, api):
    scene.open(api=api, attempts=1)
    scene.otherwise = Truncated()
    with scene.session() as guest:
        with (
            pytest.raises(anthropic.APIError),
            guest.anthropic().messages.stream(model="m", max_tokens=9, messages=HI) as stream,
        ):
            stream.get_final_message()
    assert scene.records()[0]["error"]["kind"] in ("malformed", "unreachable")


def test_a_dead_endpoint_opens_the_breaker_and_later_calls_fail_at_once(scene):
    scene.open(base_url="http://127.0.0.1:9/v1", attempts=2)
    with scene.session() as guest:
        answers = guest.ask_all([f"q{n}" for n in range(5)], threads=1)
        assert all(isinstance(answer, openai.InternalServerError) for answer in answers)
        began = time.monotonic()
        with pytest.raises(openai.InternalServerError, match="5 calls"):
            guest.ask(user="q9")
        assert time.monotonic() - began < 1
        trouble = guest.session.trouble()
        assert guest.session.faults().questions == {f"q{n}": LIMITED for n in (0, 1, 2, 3, 4, 9)}
    assert isinstance(trouble, ProviderDown)
    assert "\n" not in str(trouble)
    assert scene.spent() == (0, 0)  # nothing ever reached it
    with pytest.raises(ProviderDown, match="custom"):
        scene.models.chat(scene.grant(role="meta"), HI, [])


def test_a_breaker_that_opens_ends_the_pauses_of_other_calls(scene):
    scene.open(attempts=2, max_wait_seconds=600.0)
    scene.reactions = [Status(500, headers={"retry-after": "300"}), Status(401)]
    began = time.monotonic()
    with scene.session() as guest:
        answers = guest.ask_all(["waits", "finds out"], threads=2)
    assert all(isinstance(answer, openai.APIStatusError) for answer in answers)
    assert time.monotonic() - began < 20


def test_a_success_in_between_keeps_the_breaker_closed(scene):
    scene.open(attempts=1)
    scene.reactions = [*([Status(500)] * 4), Answer("up"), *([Status(500)] * 4)]
    with scene.session() as guest:
        guest.ask_all(["q"] * 9, threads=1)
        assert guest.ask() == "hello"
        assert guest.session.trouble() is None


@pytest.mark.parametrize("code", [401, 402, 403, 404])
def test_a_key_or_model_that_is_refused_is_given_up_at_once(scene, code):
    scene.open()
    scene.otherwise = Status(code, message="not with test-key")
    with scene.session() as guest:
        with pytest.raises(openai.APIStatusError):
            guest.ask()
        with pytest.raises(openai.InternalServerError):
            guest.ask()
        assert isinstance(guest.session.trouble(), ProviderDown)
        assert "test-key" not in str(guest.session.trouble())
    assert scene.counted()[0] == 1


def test_a_daily_quota_is_given_up_at_once_with_the_providers_words(scene):
    scene.open()
    scene.otherwise = Status(429, message="Quota exceeded: requests per day, free tier")
    with scene.session() as guest:
        guest.ask_all(["q"] * 5, threads=1)
        trouble = guest.session.trouble()
    assert isinstance(trouble, ProviderDown) and "requests per day, free tier" in str(trouble)
    assert scene.counted()[0] == 1


def test_a_delay_in_the_body_is_waited_for(scene):
    scene.open(max_wait_seconds=5.0)
    scene.reactions = [Status(429, message="Please try again in 1.0s")]
    began = time.monotonic()
    with scene.session() as guest:
        assert guest.ask() == "hello"
    assert 1.0 <= time.monotonic() - began < 3


def test_403_about_one_request_does_not_bring_the_provider_down(scene):
    scene.open()
    scene.reactions = [Answer("ready"), Status(403, message="flagged")]
    with scene.session() as guest:
        guest.ask()
        with pytest.raises(openai.PermissionDeniedError, match="flagged"):
            guest.ask()
        assert guest.ask() == "hello"


def test_the_key_is_in_no_answer_record_or_environment(scene):
    scene.open(attempts=1)
    scene.otherwise = Status(400, message="you sent Bearer test-key to me")
    with scene.session() as guest:
        with pytest.raises(openai.BadRequestError) as raised:
            guest.ask()
        assert "test-key" not in str(raised.value)
        assert "test-key" not in str(guest.session.address)
    assert "test-key" not in scene.trajectories.read_text()
    assert "[key]" in scene.records()[0]["error"]["message"]


def test_without_a_count_tokens_are_estimated_and_marked(scene):
    scene.open()
    scene.otherwise = Malformed(
        '{"model": "m", "choices": [{"message": {"content": "abcd abcd"}, "finish_reason": "stop"}]}'
    )
    with scene.session() as guest:
        assert guest.ask() == "abcd abcd"
    usage = scene.records()[0]["usage"]
    assert usage["estimated"] and usage["output"] == 3 and usage["input"] > 5


NONSENSE = ["[]", "null", "0", '""', '{"choices": []}', '{"choices": [3]}', '{"choices": [{"message": 7}]}', "[" * 5000]


@pytest.mark.parametrize("body", [*NONSENSE, '{"error": {"message": "oh", "code": 500}}'])
@pytest.mark.parametrize("stream", [False, True])
def test_nonsense_is_a_typed_failure(scene, body, stream):
    scene.open(attempts=1)
    scene.otherwise = Malformed(body)
    with scene.session() as guest, pytest.raises(openai.APIError):
        list(guest.openai().chat.completions.create(model="m", messages=HI, stream=stream))
    assert scene.records()[0]["error"]["kind"] in ("malformed", "unreachable")


IN_PLACE_OF_A_STREAM = [
    ('{"error": {"message": "test-key: the model is overloaded", "code": 503}}', "[key]: the model is overloaded"),
    ('{"type": "error", "error": {"type": "overloaded_error", "message": "later"}}\n\n', "later"),
    ('\n{"detail": "no such tenant"}', "no such tenant"),
    ("<html>Maintenance until noon</html>", "Maintenance until noon"),
    (json.dumps({"error": {"message": "x" * 100_000}}), 'is not JSON: b\'{"error": {"message": "xxx'),
]


@pytest.mark.parametrize(("body", "words"), IN_PLACE_OF_A_STREAM)
@APIS
def test_what_comes_in_place_of_a_stream_is_told_in_the_providers_words(scene, api, body, words):
    scene.open(api=api, attempts=1)
    scene.otherwise = Malformed(body, whole=True)
    with scene.session() as guest, pytest.raises(openai.APIError):
        list(guest.openai().chat.completions.create(model="m", messages=HI, stream=True, user="q1"))
    message = scene.records()[0]["error"]["message"]
    assert words in message and "test-key" not in message and len(message) < 2100
    assert guest.session.faults().questions == {"q1": LIMITED}


@contextmanager
def closing_after_streams():
    """A server that says keep-alive and then answers one request a connection, as llama.cpp's does after a stream."""
    chunk = {"choices": [{"index": 0, "delta": {"content": "hello"}, "finish_reason": "stop"}]}
    body = f"data: {json.dumps(chunk)}\n\ndata: [DONE]\n\n".encode()
    head = f"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: {len(body)}\r\n"
    answered, closed = [], []

    class Handler(socketserver.StreamRequestHandler):
        def read(self) -> bytes:
            header = b"".join(iter(self.rfile.readline, b"\r\n"))
            return self.rfile.read(int(re.findall(rb"(?i)content-length: (\d+)", header)[0])) if header else b""

        def handle(self) -> None:
            answered.append(self.read())
            self.wfile.write(head.encode() + b"Keep-Alive: timeout=5, max=100\r\n\r\n" + body)
            if self.rfile.read(1):  # the next request: it was on its way when the connection was closed
                closed.append(self.client_address)

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as running:
        running.daemon_threads = True
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_address[1]}/v1", answered, closed
        running.shutdown()


def test_a_connection_that_the_server_closed_in_between_costs_no_attempt(scene):
    with closing_after_streams() as (url, answered, closed):
        scene.open(base_url=url)
        with scene.session() as guest:
            client = guest.openai()
            for _ in range(3):
                stream = client.chat.completions.create(model="any", messages=HI, stream=True)
                assert "".join(chunk.choices[0].delta.content or "" for chunk in stream) == "hello"
        assert (len(answered), len(closed)) == (3, 0)  # each on a connection of its own
    assert [record["attempts"] for record in scene.records()] == [1, 1, 1]
    assert scene.spent()[0] == 3
