"""The failures of a Tinker service, each as one line; those of a real one are in test_tinker_server.py."""

import http.server
import threading
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import ClassVar

import pytest

from sia_runner.policy.tinker_client import TinkerClient
from sia_runner.wire.failures import CallError

KEY = "tml-secret-of-the-test"


class StatusError(Exception):
    """As the package raises it for a status."""

    def __init__(self, text: str, status_code: int) -> None:
        super().__init__(text)
        self.status_code = status_code


class APIConnectionError(Exception):
    """Known by its name, as the package need not be here."""


def failure(error: Exception, seconds: float = 5.0) -> CallError:
    def ask() -> None:
        raise error

    with pytest.raises(CallError) as raised:
        TinkerClient("http://127.0.0.1:9", KEY, seconds).call("a sample", ask)
    assert "\n" not in raised.value.message and KEY not in raised.value.message
    return raised.value


@pytest.mark.parametrize(
    ("error", "kind", "words"),
    [
        (StatusError("Error code: 401 - {'detail': 'Invalid API key " + KEY + "'}", 401), "auth", "Invalid API key"),
        (StatusError("Error code: 402 - {'detail': 'no credit'}", 402), "auth", "no credit"),
        (StatusError("Error code: 429 - {'detail': 'too many'}", 429), "rate_limited", "too many"),
        (StatusError("Error code: 500 - {'detail': 'oops'}", 500), "unreachable", "oops"),
        (
            StatusError("Error code: 400 - {'detail': \"a prompt's too long\"}", 400),
            "bad_request",
            "a prompt's too long",
        ),
        (
            ValueError("Error retrieving result: Error code: 400 - {'detail': 'rank 64'} (status 400) for x"),
            "bad_request",
            "rank 64",
        ),
        (
            ValueError(
                "Error retrieving result: {'detail': 'Maximum number of LoRA adapters (3) reached'} (status 400) y"
            ),
            "rate_limited",
            "freed after some minutes",
        ),
        (TimeoutError(), "timeout", "gave no answer about a sample within 5 s"),
        (APIConnectionError("Connection error."), "unreachable", "cannot be reached"),
        (RuntimeError("first\nsecond"), "unreachable", "RuntimeError: first second"),
    ],
)
def test_failure_is_one_line_of_a_kind(error: Exception, kind: str, words: str) -> None:
    failed = failure(error)
    assert failed.kind == kind and words in failed.message


def test_refusal_that_repeats_the_request_is_cut() -> None:
    failed = failure(StatusError("Error code: 422 - {'detail': '" + "1, " * 100_000 + "'}", 422))
    assert failed.kind == "bad_request" and len(failed.message) < 500


def test_call_without_an_answer_ends_in_time() -> None:
    client, began = TinkerClient("http://127.0.0.1:9", None, 0.2), time.monotonic()
    with pytest.raises(CallError, match="within 0.2 s"):
        client.call("a sample", lambda: time.sleep(60))
    assert time.monotonic() - began < 5


def test_server_that_goes_away_is_noticed_while_a_call_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """The package would ask again without end, and the timeout of a call is long."""
    monkeypatch.setattr("sia_runner.policy.tinker_client._WATCH_SECONDS", 0.05)
    client, over = TinkerClient("http://127.0.0.1:9", None, 600.0), threading.Event()
    with pytest.raises(CallError, match="cannot be reached") as raised:
        client.call("a sample", over.wait)
    over.set()
    assert raised.value.kind == "unreachable" and raised.value.sent


class _Server(http.server.BaseHTTPRequestHandler):
    seen: ClassVar[list[tuple[str, str | None]]] = []

    def do_GET(self) -> None:
        self.seen.append((self.path, self.headers.get("X-API-Key")))
        moved = self.path.endswith("/archive")
        self.send_response(302 if moved else 200 if self.path.endswith("/download") else 404)
        if moved:
            self.send_header("Location", self.path.replace("/archive", "/download"))
        self.end_headers()
        if not moved:
            self.wfile.write(b"archive")

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def url() -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Server)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    _Server.seen = []
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def test_archive_is_found_where_the_service_says(url: str) -> None:
    assert TinkerClient(url, KEY, 5.0).download("tinker://model_1/name") == b"archive"
    path = "/api/v1/training_runs/model_1/checkpoints/name"
    assert _Server.seen == [(f"{path}/archive", KEY), (f"{path}/download", KEY)]


class _Rest:
    """The part of the package that deletes saved states."""

    def __init__(self) -> None:
        self.deleted: list[tuple[str, float]] = []

    def create_rest_client(self) -> "_Rest":
        return self

    def delete_checkpoint_from_tinker_path(self, path: str) -> SimpleNamespace:
        return SimpleNamespace(result=lambda seconds: self.deleted.append((path, seconds)))


def test_saved_state_is_deleted_with_little_patience() -> None:
    client, rest = TinkerClient("http://127.0.0.1:9", KEY, 600.0), _Rest()
    client._service = rest
    client.delete("tinker://model_1/weights/step")
    ((path, seconds),) = rest.deleted
    assert path == "tinker://model_1/weights/step" and seconds <= 10


def test_package_that_deletes_nothing_is_a_failure_of_one_line() -> None:
    client = TinkerClient("http://127.0.0.1:9", KEY, 600.0)
    client._service = SimpleNamespace(create_rest_client=SimpleNamespace)
    with pytest.raises(CallError, match="deleting a checkpoint"):
        client.delete("tinker://model_1/weights/step")


def test_server_of_something_else_is_named(url: str) -> None:
    with pytest.raises(CallError, match="nothing there speaks the Tinker protocol"):
        TinkerClient(url, KEY, 5.0).check(5.0)


def test_nothing_that_listens_is_one_line_at_once() -> None:
    with pytest.raises(CallError, match="http://127.0.0.1:9 cannot be reached") as raised:
        TinkerClient("http://127.0.0.1:9", KEY, 600.0).check(5.0)
    assert raised.value.kind == "unreachable"
