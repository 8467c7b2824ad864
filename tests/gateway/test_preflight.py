"""A provider that cannot be used is reported in one line, in under two seconds, before heavy imports."""

import contextlib
import http.server
import json
import shutil
import socket
import ssl
import subprocess
import sys
import threading
import time
from contextlib import contextmanager

import pytest

from sia_runner.config.components import HostedProvider, TokenPrices
from sia_runner.config.experiment import BudgetConfig, SpendingLimits
from sia_runner.gateway import service
from sia_runner.gateway.service import check_providers
from sia_runner.wire.grants import ModelsError
from sia_runner.wire.providers import EndpointProbe
from tests.provider import Answer, ProviderServer

FREE = BudgetConfig()


def ask(provider):
    return EndpointProbe(provider).answer()


def check_provider(role, provider, budget):
    check_providers({role: provider}, budget)


def hosted(base_url, **keys):
    named = {"api": "openai", "litellm": "openai", "model": "scripted", "key": "SIA_TEST_KEY"} | keys
    return HostedProvider(name="acme", kind="hosted", base_url=base_url, **named)


@pytest.fixture(autouse=True)
def _key(monkeypatch):
    monkeypatch.setenv("SIA_TEST_KEY", "test-key")
    for name in ("http_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def server():
    with ProviderServer(lambda request: Answer("hello"), models=("scripted", "scripted-large")) as running:
        yield running


@contextmanager
def answering(status=200, body=b"", headers=()):
    """A server that answers every GET with the same bytes, and keeps what was asked."""
    requests = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            requests.append((self.path, dict(self.headers)))
            self.send_response(status)
            for name, value in headers:
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}/v1", requests
        running.shutdown()


def refusal(*args, **keys):
    began = time.monotonic()
    with pytest.raises(ModelsError) as caught:
        check_provider("target", hosted(*args, **keys), FREE)
    assert time.monotonic() - began < 2 and "\n" not in str(caught.value) and "test-key" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("api", ["openai", "anthropic"])
def test_a_provider_that_answers_and_serves_the_model_passes(server, api):
    provider = hosted(server.base_url, api=api)
    check_provider("target", provider, FREE)
    assert ask(provider) == "answers, and serves scripted"


@pytest.mark.parametrize("api", ["openai", "anthropic"])
def test_a_refused_key_is_named_by_its_variable(server, api, monkeypatch):
    monkeypatch.setenv("SIA_TEST_KEY", "wrong")
    line = refusal(server.base_url, api=api)
    assert line.startswith("provider acme: key refused (HTTP 401") and "SIA_TEST_KEY" in line and "wrong" not in line


def test_an_endpoint_that_wants_a_key_where_none_is_configured_says_so(server):
    assert "it wants a key: name its variable in provider.key" in refusal(server.base_url, key=None)


def test_an_unknown_model_names_the_nearest(server):
    assert refusal(server.base_url, model="scripted-larg").endswith("did you mean 'scripted-large'?")


def test_a_missing_key_is_told_before_anybody_is_asked(server, monkeypatch):
    monkeypatch.delenv("SIA_TEST_KEY")
    assert refusal("http://127.0.0.1:1/v1").startswith("provider acme: no key; set SIA_TEST_KEY")


def test_a_dead_endpoint_is_named_by_its_address():
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    assert refusal(f"http://127.0.0.1:{port}/v1") == (
        f"provider acme does not answer at http://127.0.0.1:{port} (connection refused)"
    )


def test_an_endpoint_that_takes_the_call_and_says_nothing_is_given_up_in_time():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        assert refusal(f"{address}/v1").startswith(f"provider acme does not answer at {address} (no answer within")


def test_an_endpoint_that_drips_is_given_up_in_time():
    def drip(listening):
        connection, _ = listening.accept()
        with connection:
            while True:
                try:
                    connection.sendall(b"H")
                except OSError:
                    return
                time.sleep(0.1)

    with socket.create_server(("127.0.0.1", 0)) as listening:
        threading.Thread(target=drip, args=(listening,), daemon=True).start()
        assert "does not answer" in refusal(f"http://127.0.0.1:{listening.getsockname()[1]}/v1")


def test_a_list_that_is_long_on_a_slow_line_is_no_reason_to_refuse():
    def dawdle(listening):
        connection, _ = listening.accept()
        with connection:
            connection.recv(4096)
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n[")
            time.sleep(3)

    with socket.create_server(("127.0.0.1", 0)) as listening:
        threading.Thread(target=dawdle, args=(listening,), daemon=True).start()
        began = time.monotonic()
        assert "not checked" in ask(hosted(f"http://127.0.0.1:{listening.getsockname()[1]}/v1"))
        assert time.monotonic() - began < 2


@pytest.mark.skipif(not shutil.which("openssl"), reason="openssl is not installed: no certificate can be made")
def test_who_shows_the_right_certificate_is_there_however_slow_its_answer(tmp_path, monkeypatch):
    certificate = tmp_path / "cert.pem"
    make = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost -addext subjectAltName=DNS:localhost"
    subprocess.run([*make.split(), "-keyout", certificate, "-out", certificate], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)

    def dawdle(listening):
        while True:
            with contextlib.suppress(OSError), context.wrap_socket(listening.accept()[0], server_side=True) as peer:
                peer.recv(4096)
                time.sleep(2)

    with socket.create_server(("localhost", 0)) as listening:
        threading.Thread(target=dawdle, args=(listening,), daemon=True).start()
        address = f"https://localhost:{listening.getsockname()[1]}"
        assert "TLS" in refusal(f"{address}/v1")
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        assert "does not come in time" in ask(hosted(f"{address}/v1"))


def test_a_name_that_nobody_knows_is_one_line():
    line = refusal("http://name.invalid/v1")
    assert line.startswith("provider acme does not answer at http://name.invalid (")


@pytest.mark.parametrize("address", ["http://[::1", "http://a b/v1", "http://localhost:port/v1", "http://\u00ad/v1"])
def test_what_is_no_address_is_one_line(address):
    assert "does not answer" in refusal(address)


def test_a_password_in_the_address_is_not_shown():
    line = refusal("http://user:secret@127.0.0.1:1/v1")
    assert "secret" not in line and "http://127.0.0.1:1" in line


def test_something_else_than_http_is_one_line():
    def greet(listening):
        connection, _ = listening.accept()
        with connection:
            connection.recv(4096)
            connection.sendall(b"SSH-2.0-OpenSSH\r\n\r\n")

    with socket.create_server(("127.0.0.1", 0)) as listening:
        threading.Thread(target=greet, args=(listening,), daemon=True).start()
        assert "does not answer" in refusal(f"http://127.0.0.1:{listening.getsockname()[1]}/v1")


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (404, b"{}"),
        (405, b""),
        (500, b"oops"),
        (429, b"{}"),
        (200, b"<html>"),
        (200, b"[" * 100_000),
        (200, b'{"models": ["a"]}'),
        (200, b'{"data": []}'),
        (200, b'{"data": [{"id": "other"}], "has_more": true}'),
        (200, b'{"data": [{"id": 3}, 4]}'),
    ],
)
def test_a_provider_whose_list_cannot_be_had_is_not_refused_for_it(status, body):
    with answering(status, body) as (base_url, _):
        assert "not checked" in ask(hosted(base_url))


@pytest.mark.parametrize(
    ("model", "served"),
    [
        ("claude-haiku-4-5", "claude-haiku-4-5-20251001"),
        ("gpt-5-mini-latest", "gpt-5-mini-2025-08-07"),
        ("llama3", "llama3:latest"),
        ("openai/gpt-oss-120b:nitro", "openai/gpt-oss-120b"),
        ("gemini-3.8-flash", "models/gemini-3.8-flash"),
    ],
)
def test_a_model_is_known_by_its_aliases(model, served):
    with answering(body=json.dumps([{"id": "another"}, {"id": served}]).encode()) as (base_url, _):
        assert ask(hosted(base_url, model=model)) == f"answers, and serves {model}"


@pytest.mark.parametrize(("max_tokens", "fits"), [(8192, False), (4096, False), (4095, True)])
def test_a_completion_bound_that_fills_the_servers_context_is_refused_by_name(max_tokens, fits):
    listing = {"data": [{"id": "scripted", "max_model_len": 4096}, {"id": "another", "max_model_len": 64}]}
    with answering(body=json.dumps(listing).encode()) as (base_url, _):
        if fits:
            assert ask(hosted(base_url, max_tokens=max_tokens)) == "answers, and serves scripted"
            return
        line = refusal(base_url, max_tokens=max_tokens)
    assert f"provider.max_tokens={max_tokens}" in line and "4096" in line and "give provider.max_tokens=1024" in line


def test_names_that_a_terminal_would_obey_are_not_shown():
    served = [{"id": "\x1b[2Jgone"}, {"id": "x" * 10_000}, {"id": "good"}]
    with answering(body=json.dumps({"data": served}).encode()) as (base_url, _):
        assert refusal(base_url, model="m").endswith("; it serves good")


@pytest.mark.parametrize("model", ["gpt-5", "llama", "openai/gpt-oss"])
def test_another_model_of_the_same_family_is_not_an_alias(model):
    served = [{"id": name} for name in ("gpt-5-mini", "gpt-5.4-2026-03-05", "llama3:latest", "openai/gpt-oss-120b")]
    with answering(body=json.dumps({"data": served}).encode()) as (base_url, _):
        with pytest.raises(ModelsError, match="no model"):
            ask(hosted(base_url, model=model))


def test_the_key_goes_where_the_configuration_says_and_follows_no_redirect():
    with answering() as (elsewhere, requests):
        with answering(302, headers=[("Location", f"{elsewhere}/models")]) as (base_url, redirecting):
            assert "not checked" in ask(hosted(base_url, headers={"X-Org": "1"}))
    assert not requests
    ((path, headers),) = redirecting
    assert path == "/v1/models" and headers["Authorization"] == "Bearer test-key" and headers["X-Org"] == "1"


def test_a_limit_in_dollars_needs_a_price_and_says_what_to_give(server):
    provider = hosted(server.base_url)
    for budget in (BudgetConfig(usd=1.0), BudgetConfig(generation=SpendingLimits(usd=1.0))):
        with pytest.raises(ModelsError) as caught:
            check_provider("target", provider, budget)
        assert str(caught.value) == (
            "provider acme: prices of scripted are not known; give provider.prices.input and .output in USD per "
            "million tokens, or limit budget.tokens"
        )
    check_provider("target", hosted(server.base_url, prices=TokenPrices(input=1.0, output=1.0)), BudgetConfig(usd=1.0))
    check_provider("target", provider, BudgetConfig(tokens=10))


def test_a_provider_that_litellm_reaches_is_checked_for_package_and_key_only(monkeypatch):
    provider = hosted(None, api="litellm", litellm="bedrock")
    assert "not checked" in ask(provider)
    monkeypatch.delenv("SIA_TEST_KEY")
    with pytest.raises(ModelsError, match="no key"):
        check_provider("meta", provider, FREE)


def test_a_missing_package_names_the_extra(monkeypatch):
    monkeypatch.setattr(service.importlib.util, "find_spec", lambda name: None if name == "aiohttp" else object())
    assert refusal("http://127.0.0.1:1/v1") == "provider=… needs aiohttp; pip install 'sia-runner[models]'"


def test_two_roles_are_asked_side_by_side_and_one_endpoint_only_once(server):
    with answering(body=b'{"data": [{"id": "scripted"}]}') as (base_url, redirecting):
        check_providers({"meta": hosted(base_url), "target": hosted(base_url)}, FREE)
        assert len(redirecting) == 1
    with socket.create_server(("127.0.0.1", 0)) as first, socket.create_server(("127.0.0.1", 0)) as other:
        silent = [hosted(f"http://127.0.0.1:{s.getsockname()[1]}/v1") for s in (first, other)]
        began = time.monotonic()
        with pytest.raises(ModelsError):
            check_providers(dict(zip(("meta", "target"), silent, strict=True)), FREE)
        assert time.monotonic() - began < 2


def test_nothing_heavy_is_imported():
    code = (
        "import sys, sia_runner.gateway.service;"
        "assert not {'litellm', 'aiohttp', 'openai', 'anthropic', 'httpx'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
