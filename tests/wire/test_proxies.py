"""Which address is asked through the proxy of the environment."""

import pytest

from sia_runner.wire.providers import proxy_of, through_proxy

PROXY = "http://user:secret@proxy.example.com:3128"


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    return monkeypatch


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.3.2.1", "[::1]"])
def test_loopback_is_asked_directly_whatever_the_environment_says(environment, host):
    environment.setenv("http_proxy", PROXY)
    assert proxy_of(f"http://{host}:8000/v1") is None
    assert through_proxy(f"http://{host}:8000/v1") == ""


@pytest.mark.parametrize(
    ("no_proxy", "direct"),
    [
        ("10.1.0.0/16", True),
        ("192.168.0.0/16, 10.0.0.0/8", True),
        ("10.2.0.0/16", False),
        ("10.1.2.3", True),
        ("10.1.2.3:8000", True),
        ("10.1.2.3:9000", False),
        ("*", True),
        ("no/sense,,10.1.2.4", False),
    ],
)
def test_no_proxy_names_addresses_and_blocks(environment, no_proxy, direct):
    environment.setenv("http_proxy", PROXY)
    environment.setenv("no_proxy", no_proxy)
    assert proxy_of("http://10.1.2.3:8000/v1") == (None if direct else PROXY)


@pytest.mark.parametrize("no_proxy", ["gpu.example.com", "example.com", ".example.com", "*.example.com", "EXAMPLE.com"])
def test_no_proxy_names_hosts_and_domains(environment, no_proxy):
    environment.setenv("https_proxy", PROXY)
    environment.setenv("no_proxy", no_proxy)
    assert proxy_of("https://gpu.example.com/v1") is None
    assert proxy_of("https://api.another-example.org/v1") == PROXY


def test_a_proxy_without_a_scheme_speaks_http(environment):
    environment.setenv("HTTPS_PROXY", "proxy.example.com:3128")
    assert proxy_of("https://api.example.com/v1") == "http://proxy.example.com:3128"


def test_all_proxy_serves_both_schemes_and_each_scheme_may_have_its_own(environment):
    environment.setenv("all_proxy", PROXY)
    environment.setenv("https_proxy", "http://another.example.com:1")
    assert proxy_of("http://api.example.com/v1") == PROXY
    assert proxy_of("https://api.example.com/v1") == "http://another.example.com:1"


def test_the_phrase_for_messages_names_the_proxy_without_its_password(environment):
    environment.setenv("http_proxy", PROXY)
    phrase = through_proxy("http://api.example.com/v1")
    assert "http://proxy.example.com:3128" in phrase and "NO_PROXY" in phrase and "secret" not in phrase
