"""Tests of the checks that every request passes before anything is read."""

import pytest
from starlette.testclient import TestClient

from sia_runner.results.web.app import dashboard
from sia_runner.results.web.guard import CONTENT_SECURITY_POLICY


def client(tmp_path, host="127.0.0.1", token="", at="http://127.0.0.1:8050", allowed=(), root_path=""):
    return TestClient(dashboard(tmp_path, host, token, allowed, root_path), base_url=at, follow_redirects=False)


@pytest.mark.parametrize("at", ["http://127.0.0.1:8050", "http://localhost", "http://[::1]:9", "http://LOCALHOST:1"])
def test_our_own_names_are_answered_on_any_port(tmp_path, at):
    assert client(tmp_path, at=at).get("/api/runs").status_code == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example", "10.0.0.1", "", "localhost.evil.example:8050"]
)
def test_a_name_that_was_pointed_at_us_is_refused(tmp_path, host):
    answer = client(tmp_path).get("/api/runs", headers={"host": host})
    assert answer.status_code == 421
    assert "runs" not in answer.text


def test_the_refusal_names_the_key_that_allows_a_name(tmp_path):
    answer = client(tmp_path).get("/", headers={"host": "hub.example:8443"})
    assert "allow_host=hub.example" in answer.text


def test_a_name_that_was_allowed_is_answered_and_no_other(tmp_path):
    asked = client(tmp_path, allowed=["Hub.example"])
    assert asked.get("/api/runs", headers={"host": "hub.example:8443"}).status_code == 200
    assert asked.get("/api/runs", headers={"host": "hub.example.evil.example"}).status_code == 421


def test_a_path_that_a_proxy_leaves_in_the_requests_is_taken_off(tmp_path):
    asked = client(tmp_path, token="t", root_path="/node/Zoë/8050")
    first = asked.get("/node/Zoë/8050/?token=t")
    assert (first.status_code, first.headers["location"]) == (303, "./")
    head = {"authorization": "Bearer t"}
    at = ("/node/Zoë/8050/", "/node/Zoë/8050/api/runs", "/api/runs", "/", "/node/Zoë/80500/", "/node/Zoë/8050")
    assert [asked.get(path, headers=head).status_code for path in at] == [200, 200, 200, 200, 404, 404]
    assert asked.get("/node/Zoë/8050/api/runs", headers=head | {"host": "evil.example"}).status_code == 421


def test_with_another_address_names_are_still_refused(tmp_path):
    asked = client(tmp_path, "0.0.0.0", "t", "http://10.0.0.1:8050")
    assert asked.get("/api/runs", headers={"authorization": "Bearer t"}).status_code == 200
    assert asked.get("/api/runs", headers={"authorization": "Bearer t", "host": "evil.example"}).status_code == 421


@pytest.mark.parametrize("method", ["post", "put", "delete", "patch", "options"])
def test_nothing_but_reading(tmp_path, method):
    assert getattr(client(tmp_path), method)("/api/runs").status_code == 405


@pytest.mark.parametrize("path", ["/", "/static/main.js", "/api/runs", "/api/run?path=x", "/nothing"])
def test_every_answer_has_the_policy(tmp_path, path):
    answer = client(tmp_path).get(path)
    assert answer.headers["content-security-policy"] == CONTENT_SECURITY_POLICY
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "unsafe" not in CONTENT_SECURITY_POLICY
    assert "access-control-allow-origin" not in answer.headers


class TestToken:
    def test_without_it_nothing_is_said(self, tmp_path):
        for path in ("/", "/static/main.js", "/api/runs", "/?token=wrong", "/api/runs?token="):
            assert client(tmp_path, token="right").get(path).status_code == 401, path

    def test_the_cookie_is_for_the_folder_of_the_address_alone(self, tmp_path):
        """A hub has servers of other people at other paths of the same host."""
        asked = client(tmp_path, token="right")
        assert "path" not in asked.get("/?token=right").headers["set-cookie"].lower()
        # the cookie of this address would be for /api/ alone
        assert client(tmp_path, token="right").get("/api/runs?token=right").status_code == 401

    def test_the_address_that_was_printed_becomes_a_cookie_and_is_forgotten(self, tmp_path):
        asked = client(tmp_path, token="right")
        answer = asked.get("/?token=right")
        assert (answer.status_code, answer.headers["location"]) == (303, "./")
        assert "HttpOnly" in answer.headers["set-cookie"]
        assert "SameSite=Strict" in answer.headers["set-cookie"]
        assert asked.get("/api/runs").status_code == 200

    def test_dashboards_on_several_ports_do_not_take_each_others_cookie(self, tmp_path):
        one, other = client(tmp_path, token="one"), client(tmp_path, token="other")
        other.cookies = one.cookies  # a browser sends the cookies of an address to all of its ports
        one.get("/?token=one")
        other.get("/?token=other")
        assert [asked.get("/api/runs").status_code for asked in (one, other)] == [200, 200]

    def test_a_wrong_cookie_or_header_is_refused(self, tmp_path):
        asked = client(tmp_path, token="right")
        name = asked.app.cookie
        for headers in (
            {"cookie": f"{name}=wrong"},
            {"cookie": "\x01=;;"},
            {"authorization": "Bearer ü"},
            {"authorization": "Basic right"},
        ):
            assert (
                asked.get("/api/runs", headers={k: v.encode("latin-1") for k, v in headers.items()}).status_code == 401
            )
