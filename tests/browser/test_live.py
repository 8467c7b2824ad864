"""The dashboard while a run goes on: everything appears without a reload, and nothing that a reader does is undone."""

import re
import socket
import subprocess
import sys

import pytest

from tests.browser.conftest import HOSTILE, MISSING
from tests.harnesses import MAJORITY, RAREST, WORDS

expect = pytest.importorskip("playwright.sync_api", reason=MISSING).expect
pytestmark = pytest.mark.slow
WAIT = "import time; time.sleep(3)\n"


@pytest.fixture
def command(tmp_path):
    """A run of three generations that takes about ten seconds; the first harness prints what no page may carry out."""
    harnesses = tmp_path / "harnesses"
    for n, text in enumerate((f"print({HOSTILE!r}, flush=True)\n{MAJORITY}", WAIT + WORDS, WAIT + RAREST), 1):
        folder = harnesses / f"gen_{n}"
        folder.mkdir(parents=True)
        (folder / "target_agent.py").write_text(text)
    replay = ["task=smoke", "max_gen=3", "meta_agent=replay", f"meta_agent.dir={harnesses}"]
    return [sys.executable, "-m", "sia_runner", *replay, f"hydra.run.dir={tmp_path / 'runs' / 'live'}"]


def test_generations_appear_while_a_run_goes_on(page, served, tmp_path, command):
    page.goto(served)
    page.get_by_text("There are no runs here yet").wait_for()
    with (tmp_path / "run.txt").open("w") as out:
        run = subprocess.Popen(command, stdout=out, stderr=out)
        try:
            page.get_by_role("link", name="live").click()
            page.evaluate(
                """() => {
                    window.stays = true;
                    window.said = [];
                    const news = document.getElementById("news");
                    new MutationObserver(() => window.said.push(news.textContent)).observe(news, { childList: true });
                }"""
            )
            page.locator("#open-1").focus()
            page.locator("#generation-table tbody tr").first.get_by_text("accepted").wait_for()
            page.locator("details.question > summary").first.click()
            page.locator("#open-1").focus()
            for n in (2, 3):
                page.locator(f"#open-{n}").wait_for()
            page.locator("h1 .badge", has_text="completed").wait_for()
            assert run.wait(timeout=120) == 0, (tmp_path / "run.txt").read_text()
        finally:
            run.kill()
            run.wait()
    assert page.evaluate("window.stays")  # without a reload
    assert page.evaluate("document.activeElement.id") == "open-1"
    assert page.locator("details.question[open]").count() == 1
    output = page.evaluate("window.said")
    assert len(output) <= 4, output  # one sentence for each verdict, and the end
    assert output[-1] == "The run is completed"
    assert all(re.match(r"Generation [123] (accepted|rejected)|The run is ", item) for item in output), output
    page.locator("#log").select_option("gen_1/stdout.log")
    page.locator("#log-text").get_by_text("<script>").wait_for()
    assert page.title() == "live · SIA Runner"
    page.get_by_role("button", name=re.compile("^wrong")).click()
    expect(page.locator("details.question .badge").first).to_have_text("wrong")
    page.locator("#change-of").select_option("2")
    page.locator(".diff .added").first.wait_for()


def test_a_run_with_web_true_is_followed_from_its_first_line_to_its_end(page, tmp_path, command):
    run = subprocess.Popen([*command, "web=true"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        address = next(result[0] for line in run.stdout if (result := re.search(r"http://127\S+token=[\w-]+", line)))
        port = int(re.search(r":(\d+)/", address)[1])
        page.goto(address)
        page.get_by_role("heading", level=1, name="live").wait_for()
        expect(page.locator("#connection")).to_have_text("live")
        for n in (1, 2, 3):
            page.locator(f"#open-{n}").wait_for()
        rest = run.stdout.read()
        assert run.wait(timeout=120) == 0, rest
    finally:
        run.kill()
        run.wait()
    expect(page.locator("#connection")).to_have_text("no connection, trying again")
    assert page.locator("#generation-table tbody tr").count() == 3  # what it showed stays
    with socket.create_server(("127.0.0.1", port)):  # the port is free
        pass
