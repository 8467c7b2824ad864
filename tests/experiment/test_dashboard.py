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


def test_without_it_no_process_is_started(tmp_path, monkeypatch):
    monkeypatch.setattr(subprocess, "Popen", None)
    runner.check_dashboard(SimpleNamespace(web=False))
    with runner.live_dashboard(SimpleNamespace(web=False), RunDir(tmp_path), print):
        pass


def test_a_missing_package_refuses_before_anything_starts(monkeypatch):
    monkeypatch.setattr(runner, "_DASHBOARD_PACKAGES", ("fastapi", "no_such_package"))
    with pytest.raises(RunDirectoryError, match=r"web=true.*no_such_package.*sia-runner\[web\]"):
        runner.check_dashboard(SimpleNamespace(web=True))
