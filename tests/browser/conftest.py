"""Debian's Chromium, driven by Playwright: apt-get install chromium; pip install 'sia-runner[browser]'."""

import re
import shutil
import subprocess
import sys

import pytest

CHROMIUM = shutil.which("chromium")


@pytest.fixture(scope="session")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="the extra `browser` is not installed")
    pytest.importorskip("fastapi", reason="the extra `web` is not installed")
    if not CHROMIUM:
        pytest.skip("no chromium on PATH: apt-get install chromium")
    with playwright.sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture
def page(browser):
    """Fails where a page's script raises or the policy refuses something."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    opened, faults = context.new_page(), []
    opened.on("pageerror", lambda error: faults.append(str(error)))
    opened.on("console", lambda message: faults.append(message.text) if _ours(message) else None)
    opened.set_default_timeout(60_000)
    yield opened
    context.close()
    assert faults == []


def _ours(message):
    """Not what a browser says of a file that was cleared a moment ago."""
    return message.type == "error" and not message.text.startswith("Failed to load resource")


@pytest.fixture
def served(tmp_path):
    """The address of a dashboard of tmp_path/runs."""
    (tmp_path / "runs").mkdir()
    command = [sys.executable, "-m", "sia_runner.web", f"runs_dir={tmp_path / 'runs'}", "port=0"]
    with (tmp_path / "said").open("w+") as said:
        server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=said, text=True)
        found = re.search(r"http://\S+", server.stdout.readline())
        assert found, (tmp_path / "said").read_text()
        yield found[0]
        server.terminate()
        server.communicate(timeout=60)
        assert "Traceback" not in (tmp_path / "said").read_text()
