"""web=true: the dashboard beside a run."""

import re
import subprocess
import time
import urllib.error
import urllib.request
from types import SimpleNamespace

import pytest

from sia_runner.experiment import runner
from sia_runner.store.run_directory import RunDir, RunDirectoryError
from tests.results.writing import summary


def answers(address):
    with urllib.request.urlopen(address, timeout=30) as page:
        return page.read()


def test_it_says_where_it_is_asks_for_a_token_and_ends_with_the_run(tmp_path):
    pytest.importorskip("fastapi", reason="the extra `web` is not installed")
    summary(tmp_path)
    lines = []
    with runner.live_dashboard(SimpleNamespace(web=True), RunDir(tmp_path), lines.append):
        until = time.monotonic() + 60
        while not lines and time.monotonic() < until:
            time.sleep(0.05)
        address, token = re.search(r"(http://\S+/)\?token=(\S+)", lines[0]).groups()
        with pytest.raises(urllib.error.HTTPError, match="401"):
            answers(f"{address}api/runs")
        request = urllib.request.Request(f"{address}api/runs", headers={"authorization": f"Bearer {token}"})
        assert b'"path":"."' in answers(request)
    with pytest.raises(urllib.error.URLError):
        answers(address)


def test_a_site_says_once_how_dashboards_of_runs_are_reached(tmp_path, monkeypatch):
    pytest.importorskip("fastapi", reason="the extra `web` is not installed")
    monkeypatch.setenv("SIA_WEB", "allow_host=hub.example root_path=/user/x/dash token=auto")
    summary(tmp_path)
    lines = []
    with runner.live_dashboard(SimpleNamespace(web=True), RunDir(tmp_path), lines.append):
        until = time.monotonic() + 60
        while len(lines) < 2 and time.monotonic() < until:
            time.sleep(0.05)
        token = re.search(r"https://hub\.example/user/x/dash/\?token=(\S+)", lines[1])[1]
        address = re.search(r"http://\S+/", lines[0])[0]
        head = {"authorization": f"Bearer {token}", "host": "hub.example"}
        assert b'"path":"."' in answers(urllib.request.Request(f"{address}user/x/dash/api/runs", headers=head))


def test_a_setting_that_is_refused_is_told_and_the_run_goes_on(tmp_path, monkeypatch):
    monkeypatch.setenv("SIA_WEB", "root_path=nowhere")
    lines = []
    with runner.live_dashboard(SimpleNamespace(web=True), RunDir(tmp_path), lines.append):
        pass
    assert "root_path: nowhere: allowed: a path as in /node/HOST/8050" in lines[0]


def test_without_it_no_process_is_started(tmp_path, monkeypatch):
    monkeypatch.setattr(subprocess, "Popen", None)
    runner.check_dashboard(SimpleNamespace(web=False))
    with runner.live_dashboard(SimpleNamespace(web=False), RunDir(tmp_path), print):
        pass


def test_a_missing_package_refuses_before_anything_starts(monkeypatch):
    monkeypatch.setattr(runner, "_DASHBOARD_PACKAGES", ("fastapi", "no_such_package"))
    with pytest.raises(RunDirectoryError, match=r"web=true.*no_such_package.*sia-runner\[web\]"):
        runner.check_dashboard(SimpleNamespace(web=True))
