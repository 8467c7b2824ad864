"""A page that fails on faults, and runs and servers to look at."""

import re
import subprocess
import sys
from contextlib import contextmanager

import pytest

from tests.results import writing
from tests.results.writing import done, generation, journal, start, summary

MISSING = "the extra `browser` is not installed"
HOSTILE = "<script>document.title='taken'</script><img src=x onerror=document.title='taken'>"


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
    """Not what a browser says of a file that was cleared a moment ago, or of a server that has ended."""
    return message.type in ("error", "warning") and not message.text.startswith("Failed to load resource")


@contextmanager
def serving(folder, said, *options):
    """The address that a dashboard of `folder` prints; what else it says goes to the file `said`."""
    command = [sys.executable, "-m", "sia_runner", "web", f"runs_dir={folder}", "port=0", *options]
    with said.open("w+") as errors:
        server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True)
        try:
            result = re.search(r"http://\S+", server.stdout.readline())
            assert result, said.read_text()
            yield result[0]
        finally:
            server.terminate()
            server.communicate(timeout=60)
    assert "Traceback" not in said.read_text()


@pytest.fixture
def served(tmp_path):
    """The address of a dashboard of tmp_path/runs."""
    (tmp_path / "runs").mkdir()
    with serving(tmp_path / "runs", tmp_path / "said") as address:
        yield address


@pytest.fixture
def runs(tmp_path, served):
    """Three finished runs; the first has changes, calls, curves and logs, all of them hostile."""
    del served
    root = tmp_path / "runs"
    for number, status in enumerate(("completed", "failed", "budget")):
        summary(root / f"run-{number}", status=status)
    item = root / "run-0"
    trained = done(3, "build", reward=[0.1, 0.4, 0.6], kl=[0, 0.1, 0.2], entropy=[1, 0.8, 0.5], algorithm={"steps": 3},
                   drift_kl=[1e-7, 2e-4, 1e-4], drift_share=[0, None, 0.03])  # fmt: skip
    job = ("job", {"step": "gen_2/run", "kind": "run", "job": "7", "folder": "jobs/gen_2/run"})
    journal(
        item,
        *generation(1, title=f"first {HOSTILE}"),
        start(2, "run"),
        job,
        *generation(2, "rejected", 0.4, rationale=HOSTILE),
        start(3, "propose"),
        done(3, "propose", lever="weights", algorithm="grpo", title="train", parent=1),
        trained,
        done(3, "accept", status="rejected", reason="worse"),
    )
    for n, text in ((1, "a = 1\n"), (2, f"a = 2\n# {HOSTILE}\n")):
        harness = item / f"gen_{n}" / "harness" / "target_agent.py"
        harness.parent.mkdir(parents=True)
        harness.write_text(text)
        (item / f"gen_{n}" / "stdout.log").write_text(f"{HOSTILE}\n")
    writing.scores(item, 1, {"q1": "correct", "q2": "wrong", f"q3 {HOSTILE}": "wrong"})
    writing.call(item, 1, "id-q2", HOSTILE)
    return root
