"""Providers behind a company's proxy and a certificate authority of its own: a real tinyproxy, a real TLS server."""

import asyncio
import contextlib
import http.server
import json
import shutil
import socket
import ssl
import subprocess
import threading
import time
from contextlib import contextmanager

import pytest

from sia_runner.config.components import HostedProvider
from sia_runner.gateway.http_client import HttpClient
from sia_runner.tracking.server import why_offline
from sia_runner.wire.failures import CallError
from sia_runner.wire.grants import ModelsError
from sia_runner.wire.providers import EndpointProbe

needs_tinyproxy = pytest.mark.skipif(not shutil.which("tinyproxy"), reason="tinyproxy is not installed")
needs_openssl = pytest.mark.skipif(not shutil.which("openssl"), reason="openssl is not installed: no certificates")
MODELS = json.dumps({"data": [{"id": "m"}]}).encode()


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy", "requests_ca_bundle", "curl_ca_bundle"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    return monkeypatch


@contextmanager
def serving(host="127.0.0.1", context=None):
    """A server of a list of models, which keeps the headers it was asked with."""
    asked = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(dict(self.headers))
            self.send_response(200)
            self.send_header("Content-Length", str(len(MODELS)))
            self.end_headers()
            self.wfile.write(MODELS)

        def do_POST(self):
            self.rfile.read(int(self.headers["Content-Length"]))
            self.do_GET()

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer((host, 0), Handler) as server:
        server.handle_error = lambda *_: None  # a client that does not trust the certificate leaves
        if context:
            server.socket = context.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port, asked
        server.shutdown()


def own_address():
    """An address of this machine that is not loopback: only such a server is asked through a proxy."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        with contextlib.suppress(OSError):
            probe.connect(("192.0.2.1", 9))  # sends nothing
            return probe.getsockname()[0]
    pytest.skip("this machine has no address but loopback")


@pytest.fixture
def proxy(tmp_path):
    """A tinyproxy and its log."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    log, config = tmp_path / "proxy.log", tmp_path / "proxy.conf"
    config.write_text(f'Port {port}\nListen 127.0.0.1\nLogFile "{log}"\nLogLevel Connect\nTimeout 5\nMaxClients 10\n')
    with subprocess.Popen(["tinyproxy", "-d", "-c", str(config)], stdout=subprocess.DEVNULL) as process:
        try:
            for _ in range(100):
                with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                    break
                time.sleep(0.05)
            yield f"127.0.0.1:{port}", log
        finally:
            process.terminate()


def hosted(base_url):
    return HostedProvider(
        name="acme", kind="hosted", api="openai", litellm="openai", model="m", base_url=base_url, timeout=5
    )


def probe(base_url):
    return EndpointProbe(hosted(base_url)).answer()


def post(base_url):
    async def run():
        client = HttpClient()
        try:
            response = await client.open("POST", f"{base_url}/chat/completions", {}, b"{}", stream=False)
            return response.status, await response.read()
        finally:
            await client.close()

    return asyncio.run(run())


@needs_tinyproxy
@pytest.mark.parametrize("scheme", ["", "http://"])
def test_a_provider_is_checked_and_called_through_the_proxy(environment, proxy, scheme):
    address, log = proxy
    environment.setenv("HTTP_PROXY", scheme + address)
    host = own_address()
    with serving(host) as (port, asked):
        base_url = f"http://{host}:{port}/v1"
        assert probe(base_url) == "answers, and serves m"
        assert post(base_url) == (200, MODELS)
    assert len(asked) == 2 and all("Via" in headers for headers in asked)
    assert log.read_text().count(f"{host}:{port}") >= 2


@needs_tinyproxy
@pytest.mark.parametrize("exempt", ["loopback", "address", "block"])
def test_loopback_and_what_no_proxy_names_are_asked_directly(environment, proxy, exempt):
    environment.setenv("HTTP_PROXY", proxy[0])
    host = "127.0.0.1" if exempt == "loopback" else own_address()
    if exempt != "loopback":
        environment.setenv("NO_PROXY", f"example.com,{host}{'/8' if exempt == 'block' else ''}")
    with serving(host) as (port, asked):
        base_url = f"http://{host}:{port}/v1"
        assert probe(base_url) == "answers, and serves m"
        assert post(base_url) == (200, MODELS)
    assert len(asked) == 2 and not any("Via" in headers for headers in asked)


@needs_tinyproxy
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_proxy_that_cannot_reach_the_provider_is_named(environment, proxy, scheme):
    environment.setenv(f"{scheme.upper()}_PROXY", f"http://user:secret@{proxy[0]}")
    host = own_address()
    with socket.create_server((host, 0)) as closed:
        base_url = f"{scheme}://{host}:{closed.getsockname()[1]}/v1"
    with pytest.raises(ModelsError) as caught:
        probe(base_url)
    assert f"through the proxy http://{proxy[0]}" in str(caught.value) and "secret" not in str(caught.value)


def test_a_proxy_that_does_not_run_is_named_by_the_check_and_by_a_call(environment):
    environment.setenv("HTTP_PROXY", "127.0.0.1:9")
    for ask, error in ((probe, ModelsError), (post, CallError)):
        with pytest.raises(error, match=r"through the proxy http://127\.0\.0\.1:9"):
            ask("http://198.51.100.7/v1")


@pytest.fixture
def authority(tmp_path):
    """A certificate authority of a company, and a TLS context of a server that it vouches for."""
    ca, key, request, cert, names = (
        tmp_path / name for name in ("ca.pem", "key.pem", "request", "certificate.pem", "names")
    )
    names.write_text("subjectAltName=DNS:localhost,IP:127.0.0.1")
    new, sign = "openssl req -newkey rsa:2048 -nodes -subj", "openssl x509 -req -days 2 -CAcreateserial"
    for command in (
        [*new.split(), "/CN=Company CA", "-x509", "-days", "2", "-keyout", tmp_path / "ca.key", "-out", ca],
        [*new.split(), "/CN=localhost", "-keyout", key, "-out", request],
        [*sign.split(), "-in", request, "-CA", ca, "-CAkey", tmp_path / "ca.key", "-extfile", names, "-out", cert],
    ):
        subprocess.run(command, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    return ca, context


@needs_openssl
@pytest.mark.parametrize("variable", ["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE"])
def test_the_authority_in_the_environment_is_trusted_by_check_and_calls(environment, authority, variable):
    ca, context = authority
    with serving(context=context) as (port, _):
        base_url = f"https://localhost:{port}/v1"
        for ask, error in ((probe, ModelsError), (post, CallError)):
            with pytest.raises(error) as caught:
                ask(base_url)
            assert "REQUESTS_CA_BUNDLE" in str(caught.value) and "SSL_CERT_FILE" in str(caught.value)
        environment.setenv(variable, str(ca))
        assert probe(base_url) == "answers, and serves m"
        assert post(base_url) == (200, MODELS)


class _Settings:
    mode, api_key, base_url = "online", "k" * 40, ""


@needs_openssl
def test_the_check_of_the_tracker_trusts_it_too(environment, authority):
    ca, context = authority
    with serving(context=context) as (port, _):
        settings = _Settings()
        settings.base_url = f"https://localhost:{port}"
        assert "certificate" in why_offline(settings).lower() and "REQUESTS_CA_BUNDLE" in why_offline(settings)
        environment.setenv("REQUESTS_CA_BUNDLE", str(ca))
        assert "certificate" not in why_offline(settings).lower()


@needs_openssl
def test_a_bundle_that_cannot_be_read_is_named(environment, authority, tmp_path):
    with serving(context=authority[1]) as (port, _):
        for path in (tmp_path / "gone.pem", tmp_path / "names"):
            environment.setenv("REQUESTS_CA_BUNDLE", str(path))
            with pytest.raises(ModelsError, match=f"REQUESTS_CA_BUNDLE={path} cannot be read"):
                probe(f"https://localhost:{port}/v1")
