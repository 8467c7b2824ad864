"""Tests that W&B's server is asked once, and that the result is one line without the key."""

from types import SimpleNamespace

import pytest

from sia_runner.tracking import server as endpoint
from tests.tracking.server import serving
from tests.wandb_server import KEY


def settings(base_url, mode="online", key=KEY):
    return SimpleNamespace(mode=mode, api_key=key, base_url=base_url)


@pytest.mark.parametrize(("behaviour", "says"), [("well", ""), ("401", "the key is refused"), ("500", "answers 500")])
def test_what_the_server_says(behaviour, says):
    with serving() as server:
        server.behaviour = behaviour
        result = endpoint.why_offline(settings(server.url))
    assert result.endswith(says) and bool(result) == bool(says) and KEY not in result


def test_a_server_that_does_not_answer_in_time_is_away(monkeypatch):
    monkeypatch.setattr(endpoint, "_ANSWER_SECONDS", 0.2)
    with serving() as server:
        server.behaviour = "hangs"
        assert "cannot be reached" in endpoint.why_offline(settings(server.url))


@pytest.mark.parametrize("base_url", ["http://127.0.0.1:9", "http://nobody.invalid", "no address", "http://["])
def test_without_a_network_or_an_address_it_is_one_line(base_url):
    output = endpoint.why_offline(settings(base_url))
    assert "cannot be reached" in output and "\n" not in output and KEY not in output


def test_without_a_key_or_against_the_users_will_nobody_is_asked(monkeypatch):
    monkeypatch.setenv("NETRC", "/dev/null")
    with serving() as server:
        assert "there is no key" in endpoint.why_offline(settings(server.url, key=None))
        assert endpoint.why_offline(settings(server.url, mode="offline")) == "WANDB_MODE=offline"
        assert server.requests == []


def test_a_key_may_lie_in_netrc(monkeypatch, tmp_path):
    (tmp_path / "netrc").write_text(f"machine wandb.example login user password {KEY}\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    assert endpoint.key_of(settings("https://wandb.example", key=None)) == KEY
    assert endpoint.key_of(settings("https://another.example", key=None)) == ""
